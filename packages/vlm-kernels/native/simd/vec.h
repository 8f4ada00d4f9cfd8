// Vectors of floats for the instruction set a file is compiled for: W lanes of F (float) and I (int32).
//
// Everything is in an unnamed namespace: a copy compiled for one instruction set must never be linked into the code of another. For the
// same reason kernel files use no templates of the standard library.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/pool.h"
#include "core/types.h"

namespace vlm::VLM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));
// Pairs of bf16 are loaded as floats, at any even address.
typedef float FUnaligned __attribute__((vector_size(4 * W), aligned(2), may_alias));
typedef int32_t IUnaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t HUnaligned __attribute__((vector_size(2 * W), aligned(2), may_alias));

#define VLM_INLINE inline __attribute__((always_inline))

VLM_INLINE F load(const float* p) { return *reinterpret_cast<const FUnaligned*>(p); }
VLM_INLINE void store(float* p, F v) { *reinterpret_cast<FUnaligned*>(p) = v; }
VLM_INLINE F broadcast(float v) { return F{} + v; }
VLM_INLINE F maximum(F a, F b) { return a > b ? a : b; }
VLM_INLINE I bits_of(F v) { return reinterpret_cast<I>(v); }
VLM_INLINE F float_of(I v) { return reinterpret_cast<F>(v); }

VLM_INLINE float sum(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
  float total = 0;
  for (int i = 0; i < W; ++i) total += v[i];
  return total;
#endif
}

VLM_INLINE float largest(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(reinterpret_cast<__m512>(v));
#endif
  float top = v[0];
  for (int i = 1; i < W; ++i) top = v[i] > top ? v[i] : top;
  return top;
}

// 16-bit floats, one and W at a time. Rounding is to nearest, ties to even; NaN stays NaN.

VLM_INLINE float from_bf16(uint16_t h) {
  const uint32_t wide = uint32_t(h) << 16;
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}

VLM_INLINE uint16_t to_bf16(float f) {
  uint32_t wide;
  std::memcpy(&wide, &f, 4);
  if ((wide & 0x7fffffff) > 0x7f800000) return uint16_t((wide >> 16) | 0x40);
  return uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

VLM_INLINE float from_f16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
  uint32_t wide;
  if (magnitude >= 0x7c00) {
    wide = sign | 0x7f800000 | ((magnitude & 0x3ff) << 13);
  } else if (magnitude >= 0x400) {
    wide = sign | ((magnitude + 0x1c000) << 13);
  } else {
    const float small = float(magnitude) * 0x1p-24f;
    std::memcpy(&wide, &small, 4);
    wide |= sign;
  }
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}

VLM_INLINE uint16_t to_f16(float f) {
  uint32_t wide;
  std::memcpy(&wide, &f, 4);
  const uint16_t sign = uint16_t((wide >> 16) & 0x8000);
  wide &= 0x7fffffff;
  if (wide > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (wide >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (wide < 0x38800000) {
    // Adding 0.5 shifts the mantissa to where a subnormal half ends, with the processor's rounding.
    float magnitude;
    std::memcpy(&magnitude, &wide, 4);
    magnitude += 0.5f;
    std::memcpy(&wide, &magnitude, 4);
    return uint16_t(sign | (wide - 0x3f000000));
  }
  return uint16_t(sign | ((wide - 0x38000000 + 0xfff + ((wide >> 13) & 1)) >> 13));
}

VLM_INLINE F load_bf16(const uint16_t* p) {
  return float_of(__builtin_convertvector(*reinterpret_cast<const HUnaligned*>(p), I) << 16);
}

VLM_INLINE void store_bf16(uint16_t* p, F v) {
#if defined(__AVX512BF16__)
  *reinterpret_cast<HUnaligned*>(p) = reinterpret_cast<H>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#elif defined(__AVX512F__) || defined(__AVX2__)
  const I wide = bits_of(v);
  const I rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  const I quiet = (wide >> 16) | 0x40;
  const I result = v == v ? rounded : quiet;
  *reinterpret_cast<HUnaligned*>(p) = __builtin_convertvector(result, H);
#else
  for (int i = 0; i < W; ++i) p[i] = to_bf16(v[i]);
#endif
}

VLM_INLINE F load_f16(const uint16_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<F>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<F>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__aarch64__)
  return reinterpret_cast<F>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))));
#else
  F v;
  for (int i = 0; i < W; ++i) v[i] = from_f16(p[i]);
  return v;
#endif
}

VLM_INLINE void store_f16(uint16_t* p, F v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(reinterpret_cast<float32x4_t>(v))));
#else
  for (int i = 0; i < W; ++i) p[i] = to_f16(v[i]);
#endif
}

template <Type type>
VLM_INLINE F load_as(const void* p, size_t at) {
  if constexpr (type == Type::f32) return load(static_cast<const float*>(p) + at);
  else if constexpr (type == Type::f16) return load_f16(static_cast<const uint16_t*>(p) + at);
  else return load_bf16(static_cast<const uint16_t*>(p) + at);
}

VLM_INLINE float load_one(Type type, const void* p, size_t at) {
  if (type == Type::f32) return static_cast<const float*>(p)[at];
  const uint16_t half = static_cast<const uint16_t*>(p)[at];
  return type == Type::f16 ? from_f16(half) : from_bf16(half);
}

VLM_INLINE void store_one(Type type, void* p, size_t at, float v) {
  if (type == Type::f32) static_cast<float*>(p)[at] = v;
  else static_cast<uint16_t*>(p)[at] = type == Type::f16 ? to_f16(v) : to_bf16(v);
}

template <Type type>
VLM_INLINE void store_as(void* p, size_t at, F v) {
  if constexpr (type == Type::f32) store(static_cast<float*>(p) + at, v);
  else if constexpr (type == Type::f16) store_f16(static_cast<uint16_t*>(p) + at, v);
  else store_bf16(static_cast<uint16_t*>(p) + at, v);
}

// count elements of `type` from p to floats, and back.

template <Type type>
void widen_from(const void* p, size_t count, float* out) {
  size_t i = 0;
  for (; i + W <= count; i += W) store(out + i, load_as<type>(p, i));
  for (; i < count; ++i) out[i] = load_one(type, p, i);
}

inline void widen(Type type, const void* p, size_t count, float* out) {
  if (type == Type::f32) std::memcpy(out, p, count * 4);
  else if (type == Type::f16) widen_from<Type::f16>(p, count, out);
  else widen_from<Type::bf16>(p, count, out);
}

template <Type type>
void narrow_to(const float* values, size_t count, void* out) {
  size_t i = 0;
  for (; i + W <= count; i += W) store_as<type>(out, i, load(values + i));
  for (; i < count; ++i) store_one(type, out, i, values[i]);
}

inline void narrow(Type type, const float* values, size_t count, void* out) {
  if (type == Type::f32) std::memcpy(out, values, count * 4);
  else if (type == Type::f16) narrow_to<Type::f16>(values, count, out);
  else narrow_to<Type::bf16>(values, count, out);
}

inline const void* at(Type type, const void* p, size_t index) {
  return static_cast<const char*>(p) + index * size_of(type);
}

inline void* at(Type type, void* p, size_t index) { return static_cast<char*>(p) + index * size_of(type); }

// e^x to 2 units in the last place: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial for e^r, n into the exponent. NaN stays NaN.
VLM_INLINE F exponential(F x) {
#if defined(__AVX512F__)
  // The operand that may be NaN stands second: the instruction returns it.
  x = reinterpret_cast<F>(_mm512_max_ps(_mm512_set1_ps(-110.0f), reinterpret_cast<__m512>(x)));
  x = reinterpret_cast<F>(_mm512_min_ps(_mm512_set1_ps(90.0f), reinterpret_cast<__m512>(x)));
#endif
  const F magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const F shifted = x * 1.44269504088896341f + magic;
  const F n = shifted - magic;
  F r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  F p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  return reinterpret_cast<F>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  // In two halves, so that neither leaves the range of the exponent.
  const I whole = bits_of(shifted) - bits_of(magic);
  const I half = whole >> 1;
  p = p * float_of((half + 127) << 23) * float_of((whole - half + 127) << 23);
  p = x < -104.0f ? F{} : p;
  p = x > 88.8f ? broadcast(__builtin_inff()) : p;
  return x == x ? p : x;
#endif
}

VLM_INLINE F sigmoid(F x) { return 1.0f / (1.0f + exponential(-x)); }

VLM_INLINE F hyperbolic_tangent(F x) {
  const F e = exponential(x < 0.0f ? x + x : -(x + x));
  const F t = (1.0f - e) / (1.0f + e);
  return x < 0.0f ? -t : t;
}

template <class Body>
void for_blocks(size_t count, const Body& body) {
  parallel(
      count, [](void* context, size_t block) { (*static_cast<const Body*>(context))(block); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
inline size_t larger(size_t a, size_t b) { return a > b ? a : b; }

}  // namespace
}  // namespace vlm::VLM_ISA
