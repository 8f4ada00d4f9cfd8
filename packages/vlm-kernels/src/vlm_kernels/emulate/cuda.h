// The CUDA dialect on top of runtime.h: the part of it that kernels of this package use.
#pragma once

#include <algorithm>

#include "runtime.h"

#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __EMULATED__ 1
#define EMULATE_SHARED(type, name, count) \
  auto& name = *static_cast<type(*)[count]>(emulate::shared(sizeof(type) * (count), __COUNTER__))

#define threadIdx (emulate::state().current->position)
#define blockIdx (emulate::state().group_index)
#define blockDim (emulate::state().group)
#define gridDim (emulate::state().grid)

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
using uint = uint32_t;
using uint3 = emulate::Index3;

using __nv_bfloat16 = emulate::Bfloat;
using __half = emulate::Half;

inline void __syncthreads() { emulate::barrier(); }
inline void __syncwarp() { emulate::exchange(0, "__syncwarp"); }
template <typename T>
T __shfl_xor_sync(uint32_t, T value, int mask) {
  return emulate::exchange(value, "__shfl_xor_sync")[emulate::lane() ^ mask];
}
template <typename T>
T __shfl_sync(uint32_t, T value, int lane) {
  return emulate::exchange(value, "__shfl_sync")[lane];
}
inline bool __any_sync(uint32_t, bool value) {
  auto all = emulate::exchange(value, "__any_sync");
  bool any = false;
  for (int lane = 0; lane < emulate::kSimdSize; ++lane) any |= all[lane];
  return any;
}
inline uint32_t __float_as_uint(float value) { return emulate::bit_cast<uint32_t>(value); }
inline float __uint_as_float(uint32_t bits) { return emulate::bit_cast<float>(bits); }
// The PTX instruction: a selector with its top bit set gives the sign of the byte eight times.
inline uint32_t emulate_prmt(uint32_t x, uint32_t y, uint32_t selector) {
  uint64_t bytes = uint64_t(y) << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t nibble = selector >> (4 * i) & 15;
    uint32_t byte = uint32_t(bytes >> (8 * (nibble & 7))) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
// The intrinsic looks at three bits of each nibble.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) { return emulate_prmt(x, y, selector & 0x7777); }
template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
using std::max;
using std::min;

// D = A B + C of one warp, as in the PTX manual's fragment layout for bf16 operands and float accumulators.
struct MmaFragment {
  uint32_t a[4], b[2];
};
inline void emulate_mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  auto all = emulate::exchange(MmaFragment{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, "mma.m16n8k16");
  auto half = [](uint32_t word, int upper) { return __uint_as_float(upper ? word & 0xffff0000u : word << 16); };
  int group = emulate::lane() >> 2, pair = emulate::lane() & 3;
  for (int i = 0; i < 4; ++i) {
    int row = group + 8 * (i >> 1), column = 2 * pair + (i & 1);
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      MmaFragment left = all[(row & 7) * 4 + (k & 7) / 2], right = all[column * 4 + (k & 7) / 2];
      sum += double(half(left.a[(row >> 3) + 2 * (k >> 3)], k & 1)) * double(half(right.b[k >> 3], k & 1));
    }
    c[i] = float(sum);
  }
}
inline void emulate_mma_m16n8k32(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  auto all = emulate::exchange(MmaFragment{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, "mma.m16n8k32");
  auto byte = [](uint32_t word, int index) { return int(int8_t(word >> (8 * index))); };
  int group = emulate::lane() >> 2, pair = emulate::lane() & 3;
  for (int i = 0; i < 4; ++i) {
    int row = group + 8 * (i >> 1), column = 2 * pair + (i & 1);
    for (int k = 0; k < 32; ++k) {
      MmaFragment left = all[(row & 7) * 4 + (k & 15) / 4], right = all[column * 4 + (k & 15) / 4];
      c[i] += byte(left.a[(row >> 3) + 2 * (k >> 4)], k & 3) * byte(right.b[k >> 4], k & 3);
    }
  }
}
