// Products as MLX ops, for bindings that compose them.
#pragma once

#include "bind/kernel.h"

namespace vlm::bind {

// a [..., M, K] @ b [..., K, N], leading axes broadcast; K or N of b may be the contiguous axis.
mx::array dense_matmul(const mx::array& a, const mx::array& b);

// x [..., K] @ w [N, K]^T + bias [N].
mx::array dense_linear(const mx::array& x, const mx::array& w, const std::optional<mx::array>& bias);

}  // namespace vlm::bind
