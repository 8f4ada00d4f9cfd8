// The words of the common kernels (rotate.h, codes.h, scan.h) in CUDA.
#ifndef TURBOQUANT_PRELUDE
#define TURBOQUANT_PRELUDE
#ifndef __EMULATED__
typedef unsigned int uint;
#endif
#define GPU_FUNCTION __device__ __forceinline__
#define GPU_DEVICE
#define GPU_SHARED
#define GPU_BFLOAT __nv_bfloat16
#define GPU_BARRIER() __syncthreads()
#define GPU_ABS(x) fabsf(x)
#define GPU_SQRT(x) sqrtf(x)
#define GPU_EXP2(x) exp2f(x)
#define GPU_LOG2(x) log2f(x)
#define GPU_TANH(x) tanhf(x)
#define GPU_MAX(x, y) fmaxf(x, y)
#define GPU_FROM_LANE(x, lane) __shfl_sync(0xffffffffu, x, lane)
#define GPU_FROM_XOR(x, mask) __shfl_xor_sync(0xffffffffu, x, mask)
#define GPU_CONSTANT
#define GPU_NONE __uint_as_float(0xff800000u)
#endif
