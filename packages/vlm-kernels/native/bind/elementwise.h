// Elementwise kernels as MLX ops, for bindings that compose them.
#pragma once

#include "bind/kernel.h"
#include "ops/elementwise.h"

namespace vlm::bind {

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps);

// kind(a) * b.
mx::array gated(const mx::array& a, const mx::array& b, Gate kind);

}  // namespace vlm::bind
