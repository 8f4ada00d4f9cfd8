// TurboQuant: vectors rotated, their coordinates rounded to centroids and packed, and attention that reads them packed. The layout of
// the words and the arithmetic are those of vlm_kernels/turboquant (packing.py, reference.py).
#pragma once

#include "core/isa.h"
#include "core/types.h"

namespace vlm {

// What the codes of one store mean. The tables are float.
struct TurboquantSpec {
  int bits = 0;
  size_t size = 0;                  // of a vector, a multiple of 8
  size_t words = 0;                 // 32-bit words of a packed vector
  const float* rotation = nullptr;  // [size, size]: x * rotation is the rotated vector
  const float* centroids = nullptr; // [2^bits] by code
};

struct TurboquantStore {
  TurboquantSpec spec;
  const uint32_t* codes = nullptr;  // [batch, key heads, keys, words]
  const uint16_t* norms = nullptr;  // bf16 [batch, key heads, keys]
};

struct TurboquantAttention {
  size_t batch = 0, heads = 0, key_heads = 0, length = 0, keys = 0;
  Type type = Type::f32;      // of q and out
  const void* q = nullptr;    // [batch, heads, length, size]
  void* out = nullptr;        // [batch, heads, length, value size]
  TurboquantStore k, v;       // v's rotation is the transposed one: it leads back
  float scale = 1;
  const int32_t* lengths = nullptr;  // [batch]: filled keys
  const int32_t* offsets = nullptr;  // [batch] or null: position of the first query, which makes the attention causal
  int window = 0;                    // 0: none
};

struct TurboquantEncode {
  size_t vectors = 0;
  Type type = Type::f32;
  const void* x = nullptr;            // [vectors, size]
  TurboquantSpec spec;
  const float* thresholds = nullptr;  // [2^(bits - 1) - 1] between magnitudes, rising
  uint32_t* codes = nullptr;          // [vectors, words]
  uint16_t* norms = nullptr;          // [vectors]
};

VLM_KERNEL(turboquant_attention, (const TurboquantAttention& a), (a))
VLM_KERNEL(turboquant_encode, (const TurboquantEncode& e), (e))

}  // namespace vlm
