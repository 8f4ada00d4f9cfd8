// Products with many rows: c = a * b^T (or a * b) + bias, accumulated in float.
#pragma once

#include "core/isa.h"
#include "core/types.h"

namespace vlm {

struct Gemm {
  size_t m = 0, n = 0, k = 0;
  const void* a = nullptr;  // [m, k], rows contiguous, a_stride elements apart
  Type a_type = Type::f32;
  size_t a_stride = 0;
  Matrix b;               // [n, k], or [k, n] when not transposed
  bool transposed = true;
  void* c = nullptr;  // [m, n], rows contiguous, c_stride elements apart
  Type c_type = Type::f32;
  size_t c_stride = 0;
  const void* bias = nullptr;  // [n] or null
  Type bias_type = Type::f32;
  bool alone = false;  // run on the calling thread only: the caller shares out a batch of products
};

// For many rows: b is packed into tiles first.
VLM_KERNEL(gemm, (const Gemm& g), (g))

// For any number of rows: few of them read b as it lies, once, at the speed of memory.
VLM_KERNEL(multiply, (const Gemm& g), (g))

}  // namespace vlm
