// 4-bit weights against bf16, a few rows of A at a time, with the instructions that multiply pairs of bf16.
#pragma once

#include "ops/gemm.h"
#include "simd/rows.h"

#if defined(__AVX512BF16__)
namespace vlm::VLM_ISA {
namespace {

// 16 scales of a row from group `index` on; those outside `mask` are 0.
template <bool affine>
VLM_INLINE F load_scales(const Matrix& b, const void* scales, size_t index, __mmask16 mask) {
  if constexpr (affine) {
    const __m256i raw = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(scales) + index);
    return reinterpret_cast<F>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
  }
  const __m512i raw = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, static_cast<const uint8_t*>(scales) + index));
  if (b.mode == Mode::nvfp4) return from_e4m3(reinterpret_cast<I>(raw));
  const __mmask16 zero = _mm512_cmpeq_epi32_mask(raw, _mm512_setzero_si512());
  return reinterpret_cast<F>(_mm512_mask_mov_epi32(_mm512_slli_epi32(raw, 23), zero, _mm512_set1_epi32(0x400000)));
}

// 4-bit codes against bf16: 64 bytes hold 128 codes as 32 words of four; code j of every word becomes a bf16 in its lane and is multiplied
// with those elements of A, which `pairs` holds in that order. Affine codes become 128 + code, by the bits of its exponent: that costs less
// than a look-up, and 128 times the sum of A is taken off with the biases. The e2m1 values are looked up.
constexpr size_t kSpan = 128;
constexpr float kLifted = 128;

// A in the order in which codes are unpacked: of every span, first the elements 0, 4, 8..., then 1, 5, 9...
inline void order_for_codes(const uint16_t* from, size_t size, uint16_t* to) {
  alignas(64) uint16_t first[32], second[32];
  for (int i = 0; i < 16; ++i) {
    first[i] = uint16_t(4 * i), first[16 + i] = uint16_t(4 * i + 1);
    second[i] = uint16_t(4 * i + 2), second[16 + i] = uint16_t(4 * i + 3);
  }
  const __m512i pick[2] = {_mm512_load_si512(first), _mm512_load_si512(second)};
  for (size_t s = 0; s < size; s += kSpan, from += kSpan, to += kSpan) {
    __m512i v[4];
    VLM_UNROLL for (int i = 0; i < 4; ++i) v[i] = _mm512_loadu_si512(from + 32 * i);
    VLM_UNROLL for (int j = 0; j < 2; ++j) {
      const __m512i low = _mm512_permutex2var_epi16(v[0], pick[j], v[1]), high = _mm512_permutex2var_epi16(v[2], pick[j], v[3]);
      _mm512_storeu_si512(to + 64 * j, _mm512_shuffle_i64x2(low, high, 0x44));
      _mm512_storeu_si512(to + 64 * j + 32, _mm512_shuffle_i64x2(low, high, 0xee));
    }
  }
}

template <bool affine>
VLM_INLINE void decode4(__m512i words, __m512i table, __m512bh out[4]) {
  const __m512i shifted[3] = {words, _mm512_srli_epi16(words, 4), _mm512_srli_epi16(words, 8)};
  if constexpr (affine) {
    const __m512i low = _mm512_set1_epi16(0xf), exponent = _mm512_set1_epi16(0x4300);
    VLM_UNROLL for (int j = 0; j < 3; ++j) out[j] = reinterpret_cast<__m512bh>(_mm512_ternarylogic_epi32(shifted[j], low, exponent, 0xea));
    out[3] = reinterpret_cast<__m512bh>(_mm512_shldi_epi16(_mm512_set1_epi16(0x430), words, 4));
  } else {
    VLM_UNROLL for (int j = 0; j < 3; ++j) out[j] = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(shifted[j], table));
    out[3] = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), table));
  }
}

template <int rows, int width, bool affine>
void quantized4_rows(const Gemm& g, const Input& in, size_t n0, size_t n1) {
  const Matrix& b = g.b;
  const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_load_ps(kE2M1)));
  const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
  const size_t spans = g.k / kSpan, per_span = kSpan / size_t(b.group_size);
  // A span covers per_span groups, and 16 scales serve spans_at_once of them: which scale each lane (8 codes) takes.
  const size_t spans_at_once = 16 / per_span, scale_size = affine ? 2 : 1;
  alignas(64) int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = int32_t(size_t(i) * per_span / 16);
  const __m512i first_lanes = _mm512_load_si512(lanes), next = _mm512_set1_epi32(int32_t(per_span));
  for (size_t n = n0; n < n1; n += width) {
    const RowsOfB<width> from(n, n1);
    F total[rows][width];
    const uint8_t* codes[width];
    size_t index[width];
    VLM_UNROLL for (int w = 0; w < width; ++w) {
      codes[w] = static_cast<const uint8_t*>(b.data) + from.row[w] * b.stride;
      index[w] = from.row[w] * b.groups;
      VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] = F{};
    }
    for (size_t s0 = 0; s0 < spans; s0 += spans_at_once) {
      const size_t group = s0 * per_span, stop = smaller(s0 + spans_at_once, spans), left = b.groups - group;
      const __mmask16 mask = __mmask16(left >= 16 ? 0xffff : (1u << left) - 1);
      F scales[width];
      VLM_UNROLL for (int w = 0; w < width; ++w) {
        scales[w] = load_scales<affine>(b, b.scales, index[w] + group, mask);
        // Two further streams, too thin for the processor to run ahead of.
        _mm_prefetch(static_cast<const char*>(b.scales) + (index[w] + group) * scale_size + kAhead / 8, _MM_HINT_T0);
        if constexpr (affine) {
          _mm_prefetch(static_cast<const char*>(b.biases) + (index[w] + group) * scale_size + kAhead / 8, _MM_HINT_T0);
          const F bias = load_scales<affine>(b, b.biases, index[w] + group, mask) - scales[w] * kLifted;
          VLM_UNROLL for (int r = 0; r < rows; ++r) {
            total[r][w] += bias * reinterpret_cast<F>(_mm512_maskz_loadu_ps(mask, in.sums + size_t(r) * b.groups + group));
          }
        }
      }
      __m512i lane_scale = first_lanes;
#pragma GCC unroll 2
      for (size_t s = s0; s < stop; ++s) {
        __m512bh value[width][4];
        F part[rows][width];
        VLM_UNROLL for (int w = 0; w < width; ++w) {
          decode4<affine>(_mm512_loadu_si512(codes[w] + s * kSpan / 2), table, value[w]);
          // In the order of memory, whatever the order of use: several streams at a time halve the speed of reading. Of long rows
          // the first-level cache has no room beside A.
          const uint8_t* next_codes = width == 1 ? codes[0] + kAhead : codes[0] + 2 * width * b.stride;
          next_codes += (s * width + size_t(w)) * (kSpan / 2);
          if constexpr (width == 1) _mm_prefetch(reinterpret_cast<const char*>(next_codes), _MM_HINT_T1);
          else _mm_prefetch(reinterpret_cast<const char*>(next_codes), _MM_HINT_T0);
        }
        VLM_UNROLL for (int j = 0; j < 4; ++j) {
          VLM_UNROLL for (int r = 0; r < rows; ++r) {
            const __m512bh x = reinterpret_cast<__m512bh>(_mm512_loadu_si512(in.pairs + size_t(r) * in.stride + s * kSpan + size_t(j) * 32));
            VLM_UNROLL for (int w = 0; w < width; ++w) part[r][w] = dot(j == 0 ? F{} : part[r][w], value[w][j], x);
          }
        }
        VLM_UNROLL for (int w = 0; w < width; ++w) {
          const F scale = reinterpret_cast<F>(_mm512_permutexvar_ps(lane_scale, reinterpret_cast<__m512>(scales[w])));
          VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] += part[r][w] * scale;
        }
        lane_scale = _mm512_add_epi32(lane_scale, next);
      }
    }
    finish_all<rows, width>(g, n, from.valid, total, {});
  }
}

}  // namespace
}  // namespace vlm::VLM_ISA
#endif
