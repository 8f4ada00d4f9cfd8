#include "core/scratch.h"
#include "ops/gemm.h"
#include "simd/panel.h"

namespace vlm::VLM_ISA {
namespace {

// Rows of B in one block of work.
constexpr size_t kRowsPerBlock = 64;

// What the rows of A look like to the loops below, made once and read by every block.
struct Input {
  const float* wide = nullptr;     // [m][k], padded with zeros to a multiple of 64
  size_t stride = 0;
  const float* sums = nullptr;     // [m][groups]: sum of A over each group, for the biases
  const uint16_t* pairs = nullptr;  // [m][k]: bf16 in the order in which 4-bit codes are unpacked
};

void finish(const Gemm& g, size_t m, size_t n, float value) {
  if (g.bias) value += load_one(g.bias_type, g.bias, n);
  store_one(g.c_type, g.c, m * g.c_stride + n, value);
}

template <Type type, int rows>
void dense_rows(const Gemm& g, const Input& in, size_t n0, size_t n1) {
  for (size_t n = n0; n < n1; ++n) {
    const void* b = at(type, g.b.data, n * g.b.stride);
    F total[rows][4] = {};
    size_t i = 0;
    for (; i + 4 * W <= g.k; i += 4 * W) {
#pragma GCC unroll 4
      for (int part = 0; part < 4; ++part) {
        const F v = load_as<type>(b, i + size_t(part * W));
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) total[r][part] += v * load(in.wide + size_t(r) * in.stride + i + size_t(part * W));
      }
    }
    for (; i + W <= g.k; i += W) {
      const F v = load_as<type>(b, i);
      for (int r = 0; r < rows; ++r) total[r][0] += v * load(in.wide + size_t(r) * in.stride + i);
    }
    for (int r = 0; r < rows; ++r) {
      float value = sum((total[r][0] + total[r][1]) + (total[r][2] + total[r][3]));
      for (size_t j = i; j < g.k; ++j) value += load_one(type, b, j) * in.wide[size_t(r) * in.stride + j];
      finish(g, size_t(r), n, value);
    }
  }
}

template <int rows>
void quantized_rows(const Gemm& g, const Input& in, const Spread& spread, size_t n0, size_t n1) {
  const Matrix& b = g.b;
  const size_t group_size = size_t(b.group_size);
  for (size_t n = n0; n < n1; ++n) {
    const uint8_t* codes = static_cast<const uint8_t*>(b.data) + n * b.stride;
    F total[rows] = {};
    float offset[rows] = {};
    for (size_t group = 0; group < b.groups; ++group) {
      F part[rows] = {};
      for (size_t i = group * group_size; i < (group + 1) * group_size; i += kChunk) {
        I code[kParts];
        decode_codes(spread, codes + i * size_t(b.bits) / 8, b.end, code);
#pragma GCC unroll 4
        for (int j = 0; j < kParts; ++j) {
          const F value = value_of(b.mode, code[j]);
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) part[r] += value * load(in.wide + size_t(r) * in.stride + i + size_t(j * W));
        }
      }
      const size_t index = n * b.groups + group;
      const float scale = scale_of(b, index);
      for (int r = 0; r < rows; ++r) total[r] += part[r] * scale;
      if (b.mode == Mode::affine) {
        const float bias = bias_of(b, index);
        for (int r = 0; r < rows; ++r) offset[r] += bias * in.sums[size_t(r) * b.groups + group];
      }
    }
    for (int r = 0; r < rows; ++r) finish(g, size_t(r), n, sum(total[r]) + offset[r]);
  }
}

#if defined(__AVX512BF16__)
// 4-bit codes against bf16: 64 bytes hold 128 codes as 32 words of four; code j of every word is picked from a table of 16 bf16 values and
// multiplied with those elements of A, which `pairs` holds in that order. Whole values and e2m1 are exact in bf16.
constexpr size_t kSpan = 128;

template <int rows, int width>  // width: rows of B at a time
void quantized4_rows(const Gemm& g, const Input& in, size_t n0, size_t n1) {
  const Matrix& b = g.b;
  const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_load_ps(b.mode == Mode::affine ? kWhole : kE2M1)));
  const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
  const size_t spans = g.k / kSpan, per_span = kSpan / size_t(b.group_size);
  // A span covers per_span groups: which scale each lane (8 codes) takes.
  alignas(64) int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = int32_t(size_t(i) * per_span / 16);
  const __m512i lane_group = _mm512_load_si512(lanes);
  const __mmask16 one_span = __mmask16((1u << per_span) - 1);
  for (size_t n = n0; n < n1; n += width) {
    const size_t valid = smaller(width, n1 - n);
    __m512 total[rows][width], offset[rows][width];
    for (int r = 0; r < rows; ++r) {
      for (int w = 0; w < width; ++w) total[r][w] = offset[r][w] = _mm512_setzero_ps();
    }
    const uint8_t* codes[width];
    size_t index[width];
    for (int w = 0; w < width; ++w) {
      const size_t row = n + (size_t(w) < valid ? size_t(w) : valid - 1);
      codes[w] = static_cast<const uint8_t*>(b.data) + row * b.stride;
      index[w] = row * b.groups;
    }
    for (size_t s = 0; s < spans; ++s) {
      __m512i words[width];
      __m512 part[rows][width];
#pragma GCC unroll 4
      for (int w = 0; w < width; ++w) {
        words[w] = _mm512_loadu_si512(codes[w] + s * kSpan / 2);
        _mm_prefetch(reinterpret_cast<const char*>(codes[w] + s * kSpan / 2 + 1024), _MM_HINT_T0);
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
        for (int w = 0; w < width; ++w) {
          const __m512bh value = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(_mm512_srli_epi16(words[w], unsigned(4 * j)), table));
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) {
            const __m512bh x = reinterpret_cast<__m512bh>(_mm512_loadu_si512(in.pairs + size_t(r) * in.stride + s * kSpan + size_t(j) * 32));
            part[r][w] = _mm512_dpbf16_ps(j == 0 ? _mm512_setzero_ps() : part[r][w], value, x);
          }
        }
      }
#pragma GCC unroll 4
      for (int w = 0; w < width; ++w) {
        const size_t at_group = index[w] + s * per_span;
        __m512 scale;
        if (b.mode == Mode::affine && b.type == Type::bf16) {
          const __m256i raw = _mm256_maskz_loadu_epi16(one_span, static_cast<const uint16_t*>(b.scales) + at_group);
          scale = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
        } else {
          alignas(64) float few[16];
          for (size_t i = 0; i < per_span; ++i) few[i] = scale_of(b, at_group + i);
          scale = _mm512_load_ps(few);
        }
        scale = _mm512_permutexvar_ps(lane_group, scale);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) total[r][w] = _mm512_fmadd_ps(part[r][w], scale, total[r][w]);
      }
    }
    if (b.mode == Mode::affine) {
      for (int w = 0; w < width; ++w) {
        for (size_t group = 0; group < b.groups; group += 16) {
          const __mmask16 mask = __mmask16(b.groups - group >= 16 ? 0xffff : (1u << (b.groups - group)) - 1);
          const __m256i raw = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(b.biases) + index[w] + group);
          const __m512 bias = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
          for (int r = 0; r < rows; ++r) {
            offset[r][w] = _mm512_fmadd_ps(bias, _mm512_maskz_loadu_ps(mask, in.sums + size_t(r) * b.groups + group), offset[r][w]);
          }
        }
      }
    }
    for (size_t w = 0; w < valid; ++w) {
      for (int r = 0; r < rows; ++r) finish(g, size_t(r), n + w, _mm512_reduce_add_ps(_mm512_add_ps(total[r][w], offset[r][w])));
    }
  }
}
#endif

bool serves_pairs([[maybe_unused]] const Gemm& g) {
#if defined(__AVX512BF16__)
  const bool bf16 = g.b.mode == Mode::affine ? g.b.type == Type::bf16 : true;
  return g.b.quantized && g.b.bits == 4 && g.a_type == Type::bf16 && bf16 && g.k % kSpan == 0;
#else
  return false;
#endif
}

Input prepare(const Gemm& g, bool pairs) {
  Input in;
  in.stride = ceil_div(g.k, 64) * 64;
  const size_t sums = g.b.quantized && g.b.mode == Mode::affine ? g.m * g.b.groups : 0;
  float* wide = scratch_of<float>(g.alone ? kBlock : kShared, g.m * in.stride + sums);
  for (size_t r = 0; r < g.m; ++r) widen(g.a_type, at(g.a_type, g.a, r * g.a_stride), g.k, wide + r * in.stride);
  in.wide = wide;
  if (sums) {
    float* to = wide + g.m * in.stride;
    for (size_t r = 0; r < g.m; ++r) {
      for (size_t group = 0; group < g.b.groups; ++group) {
        const float* from = wide + r * in.stride + group * size_t(g.b.group_size);
        F total = F{};
        for (int i = 0; i < g.b.group_size; i += W) total += load(from + i);
        to[r * g.b.groups + group] = sum(total);
      }
    }
    in.sums = to;
  }
  if (pairs) {
    uint16_t* to = scratch_of<uint16_t>(g.alone ? kBlock2 : kShared2, g.m * in.stride);
    for (size_t r = 0; r < g.m; ++r) {
      const uint16_t* from = static_cast<const uint16_t*>(g.a) + r * g.a_stride;
      for (size_t s = 0; s < g.k; s += 128) {
        for (size_t j = 0; j < 4; ++j) {
          for (size_t word = 0; word < 32; ++word) to[r * in.stride + s + j * 32 + word] = from[s + word * 4 + j];
        }
      }
    }
    in.pairs = to;
  }
  return in;
}

template <int rows>
void block_of_rows(const Gemm& g, const Input& in, const Spread& spread, size_t n0, size_t n1) {
#if defined(__AVX512BF16__)
  if (in.pairs) return quantized4_rows<rows, rows == 1 ? 4 : 2>(g, in, n0, n1);
#endif
  if (g.b.quantized) return quantized_rows<rows>(g, in, spread, n0, n1);
  switch (g.b.type) {
    case Type::f32: return dense_rows<Type::f32, rows>(g, in, n0, n1);
    case Type::f16: return dense_rows<Type::f16, rows>(g, in, n0, n1);
    case Type::bf16: return dense_rows<Type::bf16, rows>(g, in, n0, n1);
  }
}

}  // namespace

void gemv(const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const Input in = prepare(g, serves_pairs(g));
  const Spread spread = make_spread(g.b.quantized ? g.b.bits : 8);
  const auto body = [&](size_t block) {
    const size_t n0 = block * kRowsPerBlock, n1 = smaller(n0 + kRowsPerBlock, g.n);
    switch (g.m) {
      case 1: return block_of_rows<1>(g, in, spread, n0, n1);
      case 2: return block_of_rows<2>(g, in, spread, n0, n1);
      case 3: return block_of_rows<3>(g, in, spread, n0, n1);
      default: return block_of_rows<4>(g, in, spread, n0, n1);
    }
  };
  const size_t blocks = ceil_div(g.n, kRowsPerBlock);
  if (g.alone) {
    for (size_t i = 0; i < blocks; ++i) body(i);
  } else {
    for_blocks(blocks, body);
  }
}

}  // namespace vlm::VLM_ISA
