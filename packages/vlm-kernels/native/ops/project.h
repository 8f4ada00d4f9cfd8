// Several products of the same few rows at once, with what stands before and after them in a layer: one hand-over instead of many.
#pragma once

#include "ops/elementwise.h"
#include "ops/gemm.h"

namespace vlm {

constexpr size_t kMaxParts = 4;

// x -> (norm) -> products -> (gated activation of the first two | residual added to the first).
// Every step rounds to the types given, as it would standing alone.
struct Project {
  size_t count = 0;
  Gemm parts[kMaxParts];  // of the same a, which is x or, if `normed`, norm.out; c is null where `gated`
  bool normed = false;
  Norm norm;  // out is null: the result stays inside
  bool gated = false;
  Gate kind = Gate::silu;
  void* out = nullptr;  // [m, n]: activation(part 0) * part 1
  Type out_type = Type::f32;
  const void* residual = nullptr;  // [m, n], contiguous, or null; `out` receives part 0 + residual
  Type residual_type = Type::f32;
};

VLM_KERNEL(project, (const Project& p), (p))

}  // namespace vlm
