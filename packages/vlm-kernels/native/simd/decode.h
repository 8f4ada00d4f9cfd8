// Read rows of a Matrix as floats or bf16, whatever its format.
#pragma once

#include "simd/vec.h"

namespace vlm::VLM_ISA {
namespace {

constexpr int kChunk = 16;  // codes decoded at a time; divides every group size
constexpr int kParts = kChunk / W;

// The value of each 4-bit floating code (e2m1).
alignas(64) constexpr float kE2M1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
alignas(64) constexpr float kWhole[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// An 8-bit floating code (e4m3): its bits are those of a float 2^120 times too small.
VLM_INLINE F from_e4m3(I code) { return float_of(((code & 0x80) << 24) | ((code & 0x7f) << 20)) * 0x1p120f; }

inline float from_e4m3_one(uint8_t code) {
  const uint32_t wide = (uint32_t(code & 0x80) << 24) | (uint32_t(code & 0x7f) << 20);
  float result;
  std::memcpy(&result, &wide, 4);
  return result * 0x1p120f;
}

inline float from_e8m0(uint8_t code) {
  const uint32_t wide = code == 0 ? 0x400000u : uint32_t(code) << 23;
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}

// Scale and bias of group `index` (row * groups + group).
VLM_INLINE float scale_of(const Matrix& m, size_t index) {
  switch (m.mode) {
    case Mode::affine: return load_one(m.type, m.scales, index);
    case Mode::nvfp4: return from_e4m3_one(static_cast<const uint8_t*>(m.scales)[index]);
    default: return from_e8m0(static_cast<const uint8_t*>(m.scales)[index]);
  }
}

VLM_INLINE float bias_of(const Matrix& m, size_t index) {
  return m.mode == Mode::affine ? load_one(m.type, m.biases, index) : 0.0f;
}

// How to spread 2 * bits bytes over 16 lanes: the two bytes that hold a code, then a shift.
struct Spread {
  alignas(64) uint8_t bytes[64];
  alignas(64) int32_t shifts[16];
  int32_t mask;
  int num_bytes;
};

inline Spread make_spread(int bits) {
  Spread spread;
  for (int i = 0; i < kChunk; ++i) {
    const int first = i * bits / 8;
    const bool two = (i * bits) % 8 + bits > 8;
    spread.bytes[4 * i] = uint8_t(first);
    spread.bytes[4 * i + 1] = two ? uint8_t(first + 1) : 0x80;  // 0x80: the shuffle writes zero
    spread.bytes[4 * i + 2] = spread.bytes[4 * i + 3] = 0x80;
    spread.shifts[i] = (i * bits) % 8;
  }
  spread.mask = (1 << bits) - 1;
  spread.num_bytes = 2 * bits;
  return spread;
}

// 16 codes from p as integers. `end` is the end of the buffer.
VLM_INLINE void decode_codes(const Spread& spread, const uint8_t* p, const uint8_t* end, I out[kParts]) {
  uint8_t tail[16];
  if (__builtin_expect(end - p < 16, 0)) {
    std::memcpy(tail, p, size_t(spread.num_bytes));
    p = tail;
  }
#if defined(__AVX512F__)
  const __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i words = _mm512_shuffle_epi8(bytes, _mm512_load_si512(spread.bytes));
  out[0] = reinterpret_cast<I>(_mm512_srlv_epi32(words, _mm512_load_si512(spread.shifts))) & spread.mask;
#elif defined(__AVX2__)
  const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  for (int part = 0; part < 2; ++part) {
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(spread.bytes + 32 * part));
    const __m256i shift = _mm256_load_si256(reinterpret_cast<const __m256i*>(spread.shifts + 8 * part));
    out[part] = reinterpret_cast<I>(_mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, order), shift)) & spread.mask;
  }
#elif defined(__aarch64__)
  const uint8x16_t bytes = vld1q_u8(p);
  for (int part = 0; part < 4; ++part) {
    const uint32x4_t words = vreinterpretq_u32_u8(vqtbl1q_u8(bytes, vld1q_u8(spread.bytes + 16 * part)));
    const int32x4_t shift = vnegq_s32(vld1q_s32(spread.shifts + 4 * part));
    out[part] = reinterpret_cast<I>(vshlq_u32(words, shift)) & spread.mask;
  }
#else
  int32_t codes[kChunk];
  for (int i = 0; i < kChunk; ++i) {
    const uint32_t low = p[spread.bytes[4 * i]];
    const uint32_t high = spread.bytes[4 * i + 1] == 0x80 ? 0 : p[spread.bytes[4 * i + 1]];
    codes[i] = int32_t(((low | high << 8) >> spread.shifts[i]) & uint32_t(spread.mask));
  }
  for (int part = 0; part < kParts; ++part) out[part] = *reinterpret_cast<const IUnaligned*>(codes + part * W);
#endif
}

VLM_INLINE I load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<I>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<I>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  I codes;
  for (int i = 0; i < W; ++i) codes[i] = p[i];
  return codes;
#endif
}

// The value of a code before scale and bias.
VLM_INLINE F value_of(Mode mode, I code) {
  if (mode == Mode::affine) return __builtin_convertvector(code, F);
  if (mode == Mode::mxfp8) return from_e4m3(code);
#if defined(__AVX512F__)
  return reinterpret_cast<F>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(code), _mm512_load_ps(kE2M1)));
#else
  F value;
  for (int i = 0; i < W; ++i) value[i] = kE2M1[code[i]];
  return value;
#endif
}

// Elements [first, first + count) of a quantized row as floats; first and count are multiples of 16.
inline void dequantize_row(const Matrix& m, const Spread& spread, size_t row, size_t first, size_t count, float* out) {
  const uint8_t* codes = static_cast<const uint8_t*>(m.data) + row * m.stride;
  for (size_t i = 0; i < count;) {
    const size_t group = (first + i) / size_t(m.group_size);
    const size_t stop = smaller((group + 1) * size_t(m.group_size) - first, count);
    const float scale = scale_of(m, row * m.groups + group), bias = bias_of(m, row * m.groups + group);
    for (; i < stop; i += kChunk) {
      I part[kParts];
      decode_codes(spread, codes + (first + i) * size_t(m.bits) / 8, m.end, part);
      for (int j = 0; j < kParts; ++j) store(out + i + size_t(j * W), value_of(m.mode, part[j]) * scale + bias);
    }
  }
}

#if defined(__AVX512BF16__)
// The same for 4-bit codes, to bf16: each group has 16 values only, which a byte pair then picks.
inline void dequantize_row4_bf16(const Matrix& m, size_t row, size_t first, size_t count, uint16_t* out) {
  const uint8_t* codes = static_cast<const uint8_t*>(m.data) + row * m.stride;
  const __m512 levels = _mm512_load_ps(m.mode == Mode::affine ? kWhole : kE2M1);
  for (size_t i = 0; i < count;) {
    const size_t group = (first + i) / size_t(m.group_size);
    const size_t stop = smaller((group + 1) * size_t(m.group_size) - first, count);
    const __m512 scale = _mm512_set1_ps(scale_of(m, row * m.groups + group));
    const __m512 bias = _mm512_set1_ps(bias_of(m, row * m.groups + group));
    const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_fmadd_ps(levels, scale, bias)));
    const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
    for (; i < stop; i += 32) {
      const __m128i bytes = stop - i >= 32
                                ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + (first + i) / 2))
                                : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + (first + i) / 2));
      // Each pair of codes in a lane of its own, low code in the low half; the table repeats, so bit 4 may hold anything.
      const __m512i wide = _mm512_cvtepu8_epi32(bytes);
      const __m512i index = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 12));
      const __m512i values = _mm512_permutexvar_epi16(index, table);
      if (stop - i >= 32) {
        _mm512_storeu_si512(out + i, values);
      } else {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm512_castsi512_si256(values));
      }
    }
    i = stop;
  }
}
#endif

// Elements [first, first + count) of a row in the type of a panel: float, or uint16_t holding bf16.
inline void fetch(const Matrix& m, const Spread& spread, size_t row, size_t first, size_t count, float* out) {
  if (m.quantized) dequantize_row(m, spread, row, first, count, out);
  else widen(m.type, at(m.type, m.data, row * m.stride + first), count, out);
}

inline void fetch(const Matrix& m, const Spread& spread, size_t row, size_t first, size_t count, uint16_t* out) {
  if (!m.quantized && m.type == Type::bf16) {
    std::memcpy(out, at(m.type, m.data, row * m.stride + first), count * 2);
    return;
  }
#if defined(__AVX512BF16__)
  if (m.quantized && m.bits == 4) return dequantize_row4_bf16(m, row, first, count, out);
#endif
  float wide[256];
  for (size_t i = 0; i < count; i += 256) {
    const size_t part = smaller(256, count - i);
    fetch(m, spread, row, first + i, part, wide);
    narrow(Type::bf16, wide, part, out + i);
  }
}

}  // namespace
}  // namespace vlm::VLM_ISA
