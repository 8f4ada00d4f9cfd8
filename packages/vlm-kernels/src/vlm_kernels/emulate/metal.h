// The Metal dialect on top of runtime.h: the part of it that kernels of this package use. No double, no std:: in kernels;
// address spaces are erased here and checked apart, by clang's OpenCL C++ front end (address_spaces.py).
#pragma once

#include "runtime.h"

#define device
#define constant const
#define thread
#define threadgroup
#define METAL_FUNC inline
#define __EMULATED__ 1
#define EMULATE_SHARED(type, name, count) \
  auto& name = *static_cast<type(*)[count]>(emulate::shared(sizeof(type) * (count), __COUNTER__))

namespace metal {

using uint = uint32_t;
using ushort = uint16_t;
using uchar = uint8_t;
using half = emulate::Half;
using emulate::Index3;
using uint3 = Index3;

using bfloat = emulate::Bfloat;
using bfloat16_t = bfloat;
using float16_t = half;

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

inline void threadgroup_barrier(mem_flags) { emulate::barrier(); }
inline void simdgroup_barrier(mem_flags) { emulate::exchange(0, "simdgroup_barrier"); }
template <typename T>
T simd_shuffle(T value, ushort lane) {
  return emulate::exchange(value, "simd_shuffle")[lane];
}
template <typename T>
T simd_shuffle_xor(T value, ushort mask) {
  return emulate::exchange(value, "simd_shuffle_xor")[emulate::lane() ^ mask];
}
template <typename T>
T simd_broadcast(T value, ushort lane) {
  return emulate::exchange(value, "simd_broadcast")[lane];
}
inline float simd_sum(float value) {
  auto all = emulate::exchange(value, "simd_sum");
  float sum = 0;
  for (int lane = 0; lane < emulate::kSimdSize; ++lane) sum += all[lane];
  return sum;
}
inline float simd_max(float value) {
  auto all = emulate::exchange(value, "simd_max");
  float largest = all[0];
  for (int lane = 1; lane < emulate::kSimdSize; ++lane) largest = std::fmax(largest, all[lane]);
  return largest;
}
inline float exp2(float value) { return ::exp2f(value); }
inline float log2(float value) { return ::log2f(value); }
namespace precise {
inline float tanh(float value) { return ::tanhf(value); }
}  // namespace precise
inline float exp(float value) { return ::expf(value); }
inline float fmax(float a, float b) { return ::fmaxf(a, b); }
inline float fmin(float a, float b) { return ::fminf(a, b); }
inline float sqrt(float value) { return ::sqrtf(value); }
inline float rsqrt(float value) { return 1.0f / ::sqrtf(value); }
inline float abs(float value) { return ::fabsf(value); }
inline int abs(int value) { return value < 0 ? -value : value; }
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename To, typename From>
To as_type(From value) {
  return emulate::bit_cast<To>(value);
}

}  // namespace metal

using namespace metal;
