// Products as MLX ops, for bindings that compose them.
#pragma once

#include "bind/kernel.h"

namespace vlm::bind {

// a [..., M, K] @ b [..., K, N], leading axes broadcast; K or N of b may be the contiguous axis.
mx::array dense_matmul(const mx::array& a, const mx::array& b);

// x [..., K] @ w [N, K]^T + bias [N].
mx::array dense_linear(const mx::array& x, const mx::array& w, const std::optional<mx::array>& bias);

// How mx.quantize packed a matrix.
struct Format {
  int group_size, bits;
  std::string mode;

  bool operator==(const Format&) const = default;
  bool affine() const { return mode == "affine"; }
  Mode kind() const {
    if (mode == "mxfp4") return Mode::mxfp4;
    if (mode == "mxfp8") return Mode::mxfp8;
    if (mode == "nvfp4") return Mode::nvfp4;
    return Mode::affine;
  }
};

// The dtype of a product with packed weights.
mx::Dtype result_dtype(const mx::array& x, const mx::array& scales, const Format& format);

// Packed weights as the kernels see them; the arrays are contiguous and evaluated.
Matrix packed(const mx::array& w, const mx::array& scales, const mx::array* biases, const Format& format);

// x [..., K] @ w^T (or @ w) with packed w.
mx::array quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
                           bool transpose, int group_size, int bits, const std::string& mode);

}  // namespace vlm::bind
