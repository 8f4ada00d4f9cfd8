// Normalizations, rotary positions and gated activations: computed in float, rounded once.
#pragma once

#include "core/isa.h"
#include "core/types.h"

namespace vlm {

struct Norm {
  size_t rows = 0, size = 0;  // x and out: [rows, size], contiguous
  const void* x = nullptr;
  Type x_type = Type::f32;
  const void* weight = nullptr;  // [size] or null
  Type weight_type = Type::f32;
  const void* bias = nullptr;
  Type bias_type = Type::f32;
  void* out = nullptr;
  Type out_type = Type::f32;
  float eps = 0;
  bool centred = false;  // layer norm; otherwise RMS norm
};

VLM_KERNEL(normalize, (const Norm& n), (n))

struct Rope {
  size_t batch = 0, heads = 0, length = 0, size = 0;
  const void* x = nullptr;  // [batch, heads, length, size] by strides in elements; the last axis is contiguous
  size_t batch_stride = 0, head_stride = 0, row_stride = 0;
  Type type = Type::f32;
  void* out = nullptr;  // contiguous
  const float *cos = nullptr, *sin = nullptr;  // [1 or batch, length, half]
  size_t half = 0;
  size_t table_batch_stride = 0;  // 0: one table for all
  bool interleaved = false;
};

constexpr size_t kMaxRopeHalf = 512;

VLM_KERNEL(rotate, (const Rope& r), (r))

enum class Gate : unsigned char { silu, gelu_tanh, gelu_exact };

struct Gated {
  size_t count = 0;  // gate, up and out: contiguous
  const void *gate = nullptr, *up = nullptr;
  Type gate_type = Type::f32, up_type = Type::f32;
  void* out = nullptr;
  Type out_type = Type::f32;
  Gate kind = Gate::silu;
};

VLM_KERNEL(gate, (const Gated& g), (g))
// On the calling thread alone: for blocks of other kernels.
VLM_KERNEL(gate_here, (const Gated& g), (g))

}  // namespace vlm
