// What the machine can do: the roofs that benchmarks compare kernels with.
#pragma once

#include "core/isa.h"
#include "core/types.h"

namespace vlm {

struct Roof {
  enum class Kind : unsigned char { read, multiply_f32, multiply_bf16 } kind = Kind::read;
  const void* data = nullptr;  // what to read
  size_t bytes = 0;
  size_t rounds = 0;  // of multiplications
  double* work = nullptr;  // out: bytes read, or floating operations done
  float* sink = nullptr;   // out: a value that depends on all of it
};

// Runs on all threads of the pool.
VLM_KERNEL(roof, (const Roof& r), (r))

}  // namespace vlm
