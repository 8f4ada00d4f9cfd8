// The words of the common kernels (rotate.h, codes.h, scan.h) in Metal.
#ifndef TURBOQUANT_PRELUDE
#define TURBOQUANT_PRELUDE
using namespace metal;
#define GPU_FUNCTION inline
#define GPU_DEVICE device
#define GPU_SHARED threadgroup
#define GPU_BFLOAT bfloat16_t
#define GPU_BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define GPU_ABS(x) metal::abs(x)
#define GPU_SQRT(x) metal::sqrt(x)
#define GPU_EXP2(x) metal::exp2(x)
#define GPU_LOG2(x) metal::log2(x)
#define GPU_TANH(x) metal::precise::tanh(x)
#define GPU_MAX(x, y) metal::max(x, y)
#define GPU_FROM_LANE(x, lane) simd_shuffle(x, ushort(lane))
#define GPU_FROM_XOR(x, mask) simd_shuffle_xor(x, ushort(mask))
#define GPU_CONSTANT constant
#define GPU_NONE as_type<float>(0xff800000u)
#endif
