// Softmax attention: out = softmax(scale * q k^T + mask) v, softmax in float. A query that sees no key gets zeros.
#pragma once

#include "core/isa.h"
#include "core/types.h"

namespace vlm {

// [batch, heads, rows, size]: strides in elements; the last axis is contiguous.
struct Heads {
  void* data = nullptr;
  Type type = Type::f32;
  size_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

struct Attention {
  size_t batch = 0, heads = 0, key_heads = 0;
  size_t length = 0, keys = 0;         // queries and keys
  size_t size = 0, value_size = 0;     // of a head
  Heads q, k, v, out;
  float scale = 1;
  float softcap = 0;  // 0: none
  bool causal = false;  // the last query sees the last key
  // A mask of [batch, heads, length, keys] by strides in elements, 0 where it is broadcast: one byte each, or floats that are added.
  const void* mask = nullptr;
  bool mask_is_bool = false;
  Type mask_type = Type::f32;
  size_t mask_strides[4] = {0, 0, 0, 0};
  const void* sinks = nullptr;  // [heads] or null
  Type sinks_type = Type::f32;
};

VLM_KERNEL(attention, (const Attention& a), (a))

}  // namespace vlm
