// Instruction sets: which are compiled in, which this machine has, which is in use.
#pragma once

namespace vlm {

enum class Isa { portable, avx2, avx512, avx512bf16, neon };

// The best one this machine and build offer, unless `select_isa` chose another.
Isa current_isa();

bool isa_available(Isa isa);

// Takes effect for calls that start later. Returns false when the machine or the build lacks it.
bool select_isa(Isa isa);

const char* isa_name(Isa isa);

}  // namespace vlm

// Declares a kernel in the namespace of each instruction set, and a function of the same name that calls the current one.
#if defined(__x86_64__)
#define VLM_KERNEL(name, params, args)                                                  \
  namespace portable { void name params; }                                              \
  namespace avx2 { void name params; }                                                  \
  namespace avx512 { void name params; }                                                \
  namespace avx512bf16 { void name params; }                                            \
  inline void name params {                                                             \
    switch (current_isa()) {                                                            \
      case Isa::avx512bf16: return avx512bf16::name args;                               \
      case Isa::avx512: return avx512::name args;                                       \
      case Isa::avx2: return avx2::name args;                                           \
      default: return portable::name args;                                              \
    }                                                                                   \
  }
#elif defined(__aarch64__)
#define VLM_KERNEL(name, params, args)                                                  \
  namespace portable { void name params; }                                              \
  namespace neon { void name params; }                                                  \
  inline void name params {                                                             \
    return current_isa() == Isa::neon ? neon::name args : portable::name args;          \
  }
#else
#define VLM_KERNEL(name, params, args)                                                  \
  namespace portable { void name params; }                                              \
  inline void name params { return portable::name args; }
#endif
