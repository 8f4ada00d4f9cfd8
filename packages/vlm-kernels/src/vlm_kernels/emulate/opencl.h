// The Metal dialect in OpenCL C++: declarations alone, for a front end that checks address spaces as Metal does.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private

typedef uchar uint8_t;
typedef char int8_t;
typedef ushort uint16_t;
typedef short int16_t;
typedef uint uint32_t;
typedef int int32_t;

struct bfloat16_t {
  ushort bits;
  bfloat16_t() = default;
  explicit bfloat16_t(float value);
  operator float() const;
  operator float() const __global;
  operator float() const __local;
  operator float() const __constant;
  void operator=(const bfloat16_t& other) __global;
  void operator=(const bfloat16_t& other) __local;
};

namespace metal {
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);
template <typename T>
T simd_shuffle(T value, ushort lane);
template <typename T>
T simd_shuffle_xor(T value, ushort mask);
template <typename T>
T simd_broadcast(T value, ushort lane);
float simd_sum(float value);
float simd_max(float value);
float abs(float value);
float sqrt(float value);
float exp2(float value);
float log2(float value);
namespace precise {
float tanh(float value);
}
float max(float x, float y);
int max(int x, int y);
float min(float x, float y);
int min(int x, int y);
}  // namespace metal

template <typename To, typename From>
To as_type(From value);
