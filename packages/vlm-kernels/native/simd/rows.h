// What loops over a few rows of A and the rows of B share: how A is prepared, which rows of B a step takes, how sums are written.
#pragma once

#include "ops/gemm.h"
#include "simd/decode.h"

namespace vlm::VLM_ISA {
namespace {

// Bytes between what is read and what is asked for beforehand; rows follow each other in memory.
constexpr size_t kAhead = 4096;

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

#if defined(__AVX512BF16__)
VLM_INLINE F dot(F total, __m512bh a, __m512bh b) { return reinterpret_cast<F>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(total), a, b)); }
#endif

}  // namespace
}  // namespace vlm::VLM_ISA
