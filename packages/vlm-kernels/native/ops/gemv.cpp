#include "core/scratch.h"
#include "ops/gemm.h"
#include "simd/panel.h"

namespace vlm::VLM_ISA {
namespace {

// Rows of B in one block of work.
constexpr size_t kRowsPerBlock = 64;
// Bytes between what is read and what is asked for beforehand; rows follow each other in memory.
constexpr size_t kAhead = 4096;
// Up to so many rows of A, B is better read as it lies than packed.
constexpr int kMaxPlainRows = 4, kMaxPairRows = 8;

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

// Loops over rows of A and of B are unrolled: their sums live in registers.
#define VLM_UNROLL _Pragma("GCC unroll 16")

// Which rows of B a step takes: `width` of them, the last repeated where fewer are left.
template <int width>
struct RowsOfB {
  size_t row[width], valid;
  RowsOfB(size_t n, size_t end) : valid(smaller(width, end - n)) {
    VLM_UNROLL for (int w = 0; w < width; ++w) row[w] = n + smaller(size_t(w), valid - 1);
  }
};

// Sums are added up before they are indexed by a variable: otherwise the compiler keeps all of them in memory.
template <int rows, int width>
VLM_INLINE void finish_all(const Gemm& g, size_t n, size_t valid, const F (&total)[rows][width], const float (&more)[rows][width]) {
  float value[rows][width];
  VLM_UNROLL for (int r = 0; r < rows; ++r) {
    VLM_UNROLL for (int w = 0; w < width; ++w) value[r][w] = sum(total[r][w]);
  }
  for (int r = 0; r < rows; ++r) {
    for (size_t w = 0; w < valid; ++w) finish(g, size_t(r), n + w, value[r][w] + more[r][w]);
  }
}

template <Type type, int rows, int width>
void dense_rows(const Gemm& g, const Input& in, size_t n0, size_t n1) {
  for (size_t n = n0; n < n1; n += width) {
    const RowsOfB<width> from(n, n1);
    const void* b[width];
    F total[rows][width];
    VLM_UNROLL for (int w = 0; w < width; ++w) {
      b[w] = at(type, g.b.data, from.row[w] * g.b.stride);
      VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] = F{};
    }
    size_t i = 0;
    for (; i + W <= g.k; i += W) {
      F v[width];
      VLM_UNROLL for (int w = 0; w < width; ++w) v[w] = load_as<type>(b[w], i);
      VLM_UNROLL for (int r = 0; r < rows; ++r) {
        const F x = load(in.wide + size_t(r) * in.stride + i);
        VLM_UNROLL for (int w = 0; w < width; ++w) total[r][w] += v[w] * x;
      }
    }
    float more[rows][width] = {};
    for (; i < g.k; ++i) {
      for (int w = 0; w < width; ++w) {
        const float v = load_one(type, b[w], i);
        for (int r = 0; r < rows; ++r) more[r][w] += v * in.wide[size_t(r) * in.stride + i];
      }
    }
    finish_all<rows, width>(g, n, from.valid, total, more);
  }
}

// bytes: 8-bit codes, which need no unpacking.
template <int rows, int width, bool bytes>
void quantized_rows(const Gemm& g, const Input& in, const Spread& spread, size_t n0, size_t n1) {
  const Matrix& b = g.b;
  const size_t group_size = size_t(b.group_size), bits = size_t(b.bits);
  for (size_t n = n0; n < n1; n += width) {
    const RowsOfB<width> from(n, n1);
    const uint8_t* codes[width];
    F total[rows][width];
    float offset[rows][width] = {};
    VLM_UNROLL for (int w = 0; w < width; ++w) {
      codes[w] = static_cast<const uint8_t*>(b.data) + from.row[w] * b.stride;
      VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] = F{};
    }
    for (size_t group = 0; group < b.groups; ++group) {
      F part[rows][width];
      VLM_UNROLL for (int r = 0; r < rows; ++r) {
        VLM_UNROLL for (int w = 0; w < width; ++w) part[r][w] = F{};
      }
      for (size_t i = group * group_size; i < (group + 1) * group_size; i += kChunk) {
        I code[width][kParts];
        VLM_UNROLL for (int w = 0; w < width; ++w) {
          if constexpr (bytes) {
            VLM_UNROLL for (int j = 0; j < kParts; ++j) code[w][j] = load_bytes(codes[w] + i + size_t(j * W));
          } else {
            decode_codes(spread, codes[w] + i * bits / 8, b.end, code[w]);
          }
        }
        VLM_UNROLL for (int j = 0; j < kParts; ++j) {
          F value[width];
          VLM_UNROLL for (int w = 0; w < width; ++w) value[w] = value_of(b.mode, code[w][j]);
          VLM_UNROLL for (int r = 0; r < rows; ++r) {
            const F x = load(in.wide + size_t(r) * in.stride + i + size_t(j * W));
            VLM_UNROLL for (int w = 0; w < width; ++w) part[r][w] += value[w] * x;
          }
        }
      }
      VLM_UNROLL for (int w = 0; w < width; ++w) {
        const size_t index = from.row[w] * b.groups + group;
        const float scale = scale_of(b, index);
        VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] += part[r][w] * scale;
        if (b.mode == Mode::affine) {
          const float bias = bias_of(b, index);
          VLM_UNROLL for (int r = 0; r < rows; ++r) offset[r][w] += bias * in.sums[size_t(r) * b.groups + group];
        }
      }
    }
    finish_all<rows, width>(g, n, from.valid, total, offset);
  }
}

#if defined(__AVX512BF16__)
VLM_INLINE F dot(F total, __m512bh a, __m512bh b) { return reinterpret_cast<F>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(total), a, b)); }

// One row of B after another, as it lies in memory; `chains` sums at a time hide the latency of an addition.
template <int rows, int chains>
void dense_pairs_rows(const Gemm& g, size_t n0, size_t n1) {
  const uint16_t *a = static_cast<const uint16_t*>(g.a), *weights = static_cast<const uint16_t*>(g.b.data);
  const size_t whole = g.k / 32 * 32;
  // The last, partial vector is loaded under a mask.
  const __mmask32 rest = __mmask32((uint64_t(1) << (g.k - whole)) - 1);
  for (size_t n = n0; n < n1; ++n) {
    const uint16_t* b = weights + n * g.b.stride;
    F total[rows][chains];
    VLM_UNROLL for (int r = 0; r < rows; ++r) {
      VLM_UNROLL for (int c = 0; c < chains; ++c) total[r][c] = F{};
    }
    size_t i = 0;
    for (; i + 32 * chains <= whole; i += 32 * chains) {
      VLM_UNROLL for (int c = 0; c < chains; ++c) {
        _mm_prefetch(reinterpret_cast<const char*>(b + i + 32 * c) + kAhead, _MM_HINT_T0);
        const __m512bh v = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + i + 32 * c));
        VLM_UNROLL for (int r = 0; r < rows; ++r) {
          total[r][c] = dot(total[r][c], v, reinterpret_cast<__m512bh>(_mm512_loadu_si512(a + size_t(r) * g.a_stride + i + 32 * c)));
        }
      }
    }
    for (; i < g.k; i += 32) {
      const __mmask32 mask = i < whole ? ~__mmask32(0) : rest;
      const __m512bh v = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, b + i));
      VLM_UNROLL for (int r = 0; r < rows; ++r) {
        total[r][0] = dot(total[r][0], v, reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, a + size_t(r) * g.a_stride + i)));
      }
    }
    VLM_UNROLL for (int r = 0; r < rows; ++r) {
      VLM_UNROLL for (int c = 1; c < chains; ++c) total[r][0] += total[r][c];
      finish(g, size_t(r), n, sum(total[r][0]));
    }
  }
}

// 16 scales of a row from group `index` on; those beyond `count` are 0.
VLM_INLINE F load_scales(const Matrix& b, const void* scales, size_t index, size_t count) {
  const __mmask16 mask = __mmask16(count >= 16 ? 0xffff : (1u << count) - 1);
  if (b.mode == Mode::affine) {
    const __m256i raw = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(scales) + index);
    return reinterpret_cast<F>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
  }
  const __m512i raw = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, static_cast<const uint8_t*>(scales) + index));
  if (b.mode == Mode::nvfp4) return from_e4m3(reinterpret_cast<I>(raw));
  const __mmask16 zero = _mm512_cmpeq_epi32_mask(raw, _mm512_setzero_si512());
  return reinterpret_cast<F>(_mm512_mask_mov_epi32(_mm512_slli_epi32(raw, 23), zero, _mm512_set1_epi32(0x400000)));
}

// 4-bit codes against bf16: 64 bytes hold 128 codes as 32 words of four; code j of every word is picked from a table of 16 bf16 values and
// multiplied with those elements of A, which `pairs` holds in that order. Whole values and e2m1 are exact in bf16.
constexpr size_t kSpan = 128;

template <int rows, int width>
void quantized4_rows(const Gemm& g, const Input& in, size_t n0, size_t n1) {
  const Matrix& b = g.b;
  const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_load_ps(b.mode == Mode::affine ? kWhole : kE2M1)));
  const __m512i table = _mm512_inserti64x4(_mm512_castsi256_si512(half), half, 1);
  const size_t spans = g.k / kSpan, per_span = kSpan / size_t(b.group_size);
  // A span covers per_span groups, and 16 scales serve spans_at_once of them: which scale each lane (8 codes) takes.
  const size_t spans_at_once = 16 / per_span, scale_size = b.mode == Mode::affine ? 2 : 1;
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
      const size_t group = s0 * per_span, stop = smaller(s0 + spans_at_once, spans);
      F scales[width];
      VLM_UNROLL for (int w = 0; w < width; ++w) {
        scales[w] = load_scales(b, b.scales, index[w] + group, b.groups - group);
        // Two further streams, too thin for the processor to run ahead of.
        _mm_prefetch(static_cast<const char*>(b.scales) + (index[w] + group) * scale_size + kAhead / 8, _MM_HINT_T0);
        if (b.biases) _mm_prefetch(static_cast<const char*>(b.biases) + (index[w] + group) * scale_size + kAhead / 8, _MM_HINT_T0);
      }
      if (b.mode == Mode::affine) {
        const __mmask16 mask = __mmask16(b.groups - group >= 16 ? 0xffff : (1u << (b.groups - group)) - 1);
        VLM_UNROLL for (int w = 0; w < width; ++w) {
          const F bias = load_scales(b, b.biases, index[w] + group, b.groups - group);
          VLM_UNROLL for (int r = 0; r < rows; ++r) {
            total[r][w] += bias * reinterpret_cast<F>(_mm512_maskz_loadu_ps(mask, in.sums + size_t(r) * b.groups + group));
          }
        }
      }
      __m512i lane_scale = first_lanes;
      for (size_t s = s0; s < stop; ++s) {
        __m512i words[width];
        F part[rows][width];
        VLM_UNROLL for (int w = 0; w < width; ++w) {
          words[w] = _mm512_loadu_si512(codes[w] + s * kSpan / 2);
          _mm_prefetch(reinterpret_cast<const char*>(codes[w] + s * kSpan / 2 + kAhead), _MM_HINT_T0);
        }
        VLM_UNROLL for (int j = 0; j < 4; ++j) {
          __m512bh value[width];
          VLM_UNROLL for (int w = 0; w < width; ++w) {
            value[w] = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(_mm512_srli_epi16(words[w], unsigned(4 * j)), table));
          }
          VLM_UNROLL for (int r = 0; r < rows; ++r) {
            const __m512bh x = reinterpret_cast<__m512bh>(_mm512_loadu_si512(in.pairs + size_t(r) * in.stride + s * kSpan + size_t(j) * 32));
            VLM_UNROLL for (int w = 0; w < width; ++w) part[r][w] = dot(j == 0 ? F{} : part[r][w], value[w], x);
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
#endif

// Which of the loops above serves a product.
enum class Way { dense, quantized, dense_pairs, quantized4 };

Way way_of(const Gemm& g) {
#if defined(__AVX512BF16__)
  if (g.a_type == Type::bf16 && !g.b.quantized && g.b.type == Type::bf16) return Way::dense_pairs;
  const bool bf16 = g.b.mode == Mode::affine ? g.b.type == Type::bf16 : true;
  if (g.b.quantized && g.b.bits == 4 && g.a_type == Type::bf16 && bf16 && g.k % kSpan == 0) return Way::quantized4;
#endif
  return g.b.quantized ? Way::quantized : Way::dense;
}

Input prepare(const Gemm& g, Way way) {
  Input in;
  if (way == Way::dense_pairs) return in;
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
#if defined(__AVX512BF16__)
  if (way == Way::quantized4) {
    uint16_t* to = scratch_of<uint16_t>(g.alone ? kBlock2 : kShared2, g.m * in.stride);
    for (size_t r = 0; r < g.m; ++r) {
      const uint16_t* from = static_cast<const uint16_t*>(g.a) + r * g.a_stride;
      for (size_t s = 0; s < g.k; s += kSpan) {
        for (size_t j = 0; j < 4; ++j) {
          for (size_t word = 0; word < 32; ++word) to[r * in.stride + s + j * 32 + word] = from[s + word * 4 + j];
        }
      }
    }
    in.pairs = to;
  }
#endif
  return in;
}

// Rows of B at a time: enough sums to hide the latency of an addition, few enough for the registers.
constexpr int width_for(int rows, int registers) {
  return rows * 4 <= registers ? 4 : rows * 2 <= registers ? 2 : 1;
}
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 16;
#else
constexpr int kSums = 8;
#endif

template <int rows>
void block_of_rows(const Gemm& g, const Input& in, Way way, const Spread& spread, size_t n0, size_t n1) {
  constexpr int width = width_for(rows, kSums);
#if defined(__AVX512BF16__)
  if (way == Way::dense_pairs) return dense_pairs_rows<rows, width>(g, n0, n1);
  if (way == Way::quantized4) return quantized4_rows<rows, 1>(g, in, n0, n1);
#endif
  if constexpr (rows <= kMaxPlainRows) {
    if (way == Way::quantized) {
      if (g.b.bits == 8) return quantized_rows<rows, 1, true>(g, in, spread, n0, n1);
      return quantized_rows<rows, 1, false>(g, in, spread, n0, n1);
    }
    switch (g.b.type) {
      case Type::f32: return dense_rows<Type::f32, rows, width>(g, in, n0, n1);
      case Type::f16: return dense_rows<Type::f16, rows, width>(g, in, n0, n1);
      case Type::bf16: return dense_rows<Type::bf16, rows, width>(g, in, n0, n1);
    }
  }
}

void gemv(const Gemm& g, Way way) {
  const Input in = prepare(g, way);
  const Spread spread = make_spread(g.b.quantized ? g.b.bits : 8);
  const auto body = [&](size_t block) {
    const size_t n0 = block * kRowsPerBlock, n1 = smaller(n0 + kRowsPerBlock, g.n);
    switch (g.m) {
      case 1: return block_of_rows<1>(g, in, way, spread, n0, n1);
      case 2: return block_of_rows<2>(g, in, way, spread, n0, n1);
      case 3: return block_of_rows<3>(g, in, way, spread, n0, n1);
      case 4: return block_of_rows<4>(g, in, way, spread, n0, n1);
      case 5: return block_of_rows<5>(g, in, way, spread, n0, n1);
      case 6: return block_of_rows<6>(g, in, way, spread, n0, n1);
      case 7: return block_of_rows<7>(g, in, way, spread, n0, n1);
      default: return block_of_rows<8>(g, in, way, spread, n0, n1);
    }
  };
  const size_t blocks = ceil_div(g.n, kRowsPerBlock);
  if (g.alone) {
    for (size_t i = 0; i < blocks; ++i) body(i);
  } else {
    for_blocks(blocks, body);
  }
}

}  // namespace

void multiply(const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const Way way = way_of(g);
  const size_t most = way == Way::dense_pairs || way == Way::quantized4 ? kMaxPairRows : kMaxPlainRows;
  if (g.transposed && g.m <= most) gemv(g, way);
  else VLM_ISA::gemm(g);
}

}  // namespace vlm::VLM_ISA
