#include <algorithm>
#include <cstring>
#include <numeric>

#include "bind/matmul.h"
#include "core/scratch.h"
#include "ops/gemm.h"

namespace vlm::bind {
namespace {

// in: packed weights, scales and, if affine, biases. In float: the rounding to 16 bits is not part of the definition.
mx::array dequantized(const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases, const Format& format) {
  const auto wide = [&](const mx::array& a) { return format.affine() ? mx::astype(a, mx::float32) : a; };
  std::optional<mx::array> bias;
  if (biases) bias = wide(*biases);
  return mx::dequantize(w, wide(scales), bias, format.group_size, format.bits, format.mode, std::nullopt, mx::float32);
}

// The matrix number `index` of a contiguous stack.
Matrix expert(const Matrix& first, size_t index, size_t rows) {
  Matrix m = first;
  const size_t scale_size = first.mode == Mode::affine ? size_of(first.type) : 1;
  m.data = static_cast<const char*>(first.data) + index * rows * first.stride;
  m.scales = static_cast<const char*>(first.scales) + index * rows * first.groups * scale_size;
  if (first.biases) m.biases = static_cast<const char*>(first.biases) + index * rows * first.groups * scale_size;
  return m;
}

class QuantizedMatmul : public Kernel {
 public:
  QuantizedMatmul(mx::Stream stream, bool transpose, Format format)
      : Kernel(stream, [transpose, format](const Arrays& in) { return define(in, transpose, format); }), transpose_(transpose), format_(format) {}
  const char* name() const override { return "VlmQuantizedMatmul"; }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const QuantizedMatmul&>(other);
    return transpose_ == same.transpose_ && format_ == same.format_;
  }

  static Arrays define(const Arrays& in, bool transpose, const Format& format) {
    mx::array w = dequantized(in[1], in[2], in.size() == 4 ? std::optional(in[3]) : std::nullopt, format);
    if (transpose) w = mx::swapaxes(w, -1, -2);
    return {mx::astype(dense_matmul(mx::astype(in[0], mx::float32), w), result_dtype(in[0], in[2], format))};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array x = contiguous(inputs[0], encoder), w = contiguous(inputs[1], encoder), scales = contiguous(inputs[2], encoder);
    const std::optional<mx::array> biases = inputs.size() == 4 ? std::optional(contiguous(inputs[3], encoder)) : std::nullopt;
    Gemm g;
    g.b = packed(w, scales, biases ? &*biases : nullptr, format_);
    g.transposed = transpose_;
    g.n = size_t(out.shape(-1)), g.k = size_t(x.shape(-1));
    g.a = x.data<char>(), g.a_type = type_of(x), g.a_stride = g.k;
    g.c = out.data<char>(), g.c_type = type_of(out), g.c_stride = g.n;
    const size_t batch = w.ndim() == 2 ? 1 : leading(out, 2), matrix_rows = size_t(w.shape(-2));
    g.m = out.size() / g.n / batch;
    encoder.dispatch([g, batch, matrix_rows]() {
      for (size_t i = 0; i < batch; ++i) {
        Gemm one = g;
        one.a = static_cast<const char*>(g.a) + i * g.m * g.k * size_of(g.a_type);
        one.b = expert(g.b, i, matrix_rows);
        one.c = static_cast<char*>(g.c) + i * g.m * g.n * size_of(g.c_type);
        multiply(one);
      }
    });
  }

  std::vector<mx::array> vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& arguments, const Arrays& outputs) override {
    if (arguments != std::vector<int>{0}) return Kernel::vjp(primals, cotangents, arguments, outputs);
    const auto biases = primals.size() == 4 ? std::optional(primals[3]) : std::nullopt;
    const mx::array gradient =
        quantized_matmul(cotangents[0], primals[1], primals[2], biases, !transpose_, format_.group_size, format_.bits, format_.mode);
    return {mx::astype(gradient, primals[0].dtype())};
  }

  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    bool plain = axes[0] >= 0 && inputs[1].ndim() == 2;
    for (size_t i = 1; i < axes.size(); ++i) plain = plain && axes[i] < 0;
    if (!plain) return Kernel::vmap(inputs, axes);
    const auto biases = inputs.size() == 4 ? std::optional(inputs[3]) : std::nullopt;
    return {{quantized_matmul(mx::moveaxis(inputs[0], axes[0], 0), inputs[1], inputs[2], biases, transpose_, format_.group_size, format_.bits,
                              format_.mode)},
            {0}};
  }

 private:
  bool transpose_;
  Format format_;
};

}  // namespace

mx::Dtype result_dtype(const mx::array& x, const mx::array& scales, const Format& format) {
  return format.affine() ? mx::promote_types(x.dtype(), scales.dtype()) : x.dtype();
}

Matrix packed(const mx::array& w, const mx::array& scales, const mx::array* biases, const Format& format) {
  Matrix m;
  m.quantized = true;
  m.data = w.data<char>();
  m.end = w.data<uint8_t>() + w.nbytes();
  m.stride = size_t(w.shape(-1)) * 4;
  m.type = format.affine() ? type_of(scales) : Type::f32;
  m.scales = scales.data<char>();
  m.biases = biases ? biases->data<char>() : nullptr;
  m.groups = size_t(scales.shape(-1));
  m.group_size = format.group_size;
  m.bits = format.bits;
  m.mode = format.kind();
  return m;
}

mx::array quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
                           bool transpose, int group_size, int bits, const std::string& mode) {
  const Format format{group_size, bits, mode};
  if (!is_floating(x) || (format.affine() && !is_floating(scales))) {
    throw std::invalid_argument("quantized_matmul: expected float32, float16 or bfloat16");
  }
  const mx::Dtype dtype = result_dtype(x, scales, format);
  mx::array left = x, weights = w, scale = scales;
  std::optional<mx::array> bias = biases;
  // Kernels read scales and biases in one type.
  if (bias && bias->dtype() != scale.dtype()) {
    const mx::Dtype both = mx::promote_types(scale.dtype(), bias->dtype());
    scale = mx::astype(scale, both), bias = mx::astype(*bias, both);
  }
  mx::Shape shape = x.shape();
  const int columns = transpose ? w.shape(-2) : w.shape(-1) * 32 / bits;
  if (w.ndim() > 2) {
    if (x.ndim() < 2) left = mx::expand_dims(x, 0);
    const mx::Shape lead = mx::broadcast_shapes(mx::Shape(left.shape().begin(), left.shape().end() - 2), mx::Shape(w.shape().begin(), w.shape().end() - 2));
    const auto widen = [&](const mx::array& a) {
      mx::Shape full = lead;
      full.push_back(a.shape(-2));
      full.push_back(a.shape(-1));
      return mx::broadcast_to(a, full);
    };
    left = widen(left), weights = widen(weights), scale = widen(scale);
    if (bias) bias = widen(*bias);
    shape = left.shape();
  }
  shape.back() = columns;
  Arrays inputs{left, weights, scale};
  if (bias) inputs.push_back(*bias);
  mx::array result(shape, dtype, std::make_shared<QuantizedMatmul>(current_stream(), transpose, format), std::move(inputs));
  return w.ndim() > 2 && x.ndim() < 2 ? mx::squeeze(result, -2) : result;
}

namespace {

// in: x [..., M, K], packed experts, scales, (biases), flat indices of x, indices of experts; both indices of one shape.
class GatherQuantizedMatmul : public Kernel {
 public:
  GatherQuantizedMatmul(mx::Stream stream, bool transpose, Format format)
      : Kernel(stream, [transpose, format](const Arrays& in) { return define(in, transpose, format); }), transpose_(transpose), format_(format) {}
  const char* name() const override { return "VlmGatherQuantizedMatmul"; }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const GatherQuantizedMatmul&>(other);
    return transpose_ == same.transpose_ && format_ == same.format_;
  }

  static Arrays define(const Arrays& in, bool transpose, const Format& format) {
    mx::array w = dequantized(in[1], in[2], format.affine() ? std::optional(in[3]) : std::nullopt, format);
    if (transpose) w = mx::swapaxes(w, -1, -2);
    const mx::array product = mx::gather_mm(mx::astype(in[0], mx::float32), w, in[in.size() - 2], in[in.size() - 1]);
    return {mx::astype(product, result_dtype(in[0], in[2], format))};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array x = contiguous(inputs[0], encoder), w = contiguous(inputs[1], encoder), scales = contiguous(inputs[2], encoder);
    const std::optional<mx::array> biases = format_.affine() ? std::optional(contiguous(inputs[3], encoder)) : std::nullopt;
    const mx::array left = contiguous(inputs[inputs.size() - 2], encoder), right = contiguous(inputs[inputs.size() - 1], encoder);
    Gemm g;
    g.b = packed(w, scales, biases ? &*biases : nullptr, format_);
    g.transposed = transpose_;
    g.n = size_t(out.shape(-1)), g.k = size_t(x.shape(-1));
    g.m = size_t(x.shape(-2));
    g.a_type = type_of(x), g.a_stride = g.k;
    g.c_type = type_of(out), g.c_stride = g.n;
    encoder.dispatch([g, rows = size_t(w.shape(-2)), count = left.size(), experts = leading(w, 2), xs = leading(x, 2), x = x.data<char>(),
                      left = left.data<uint32_t>(), right = right.data<uint32_t>(), out = out.data<char>()]() {
      // Products of one expert become one product: its weights are read once.
      std::vector<uint32_t> order(count);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return right[a] < right[b]; });
      const size_t a_size = g.m * g.k * size_of(g.a_type), c_size = g.m * g.n * size_of(g.c_type);
      std::vector<char> a, c;
      for (size_t first = 0; first < count;) {
        size_t last = first;
        while (last < count && right[order[last]] == right[order[first]]) ++last;
        const size_t number = last - first;
        const uint32_t which = right[order[first]];
        if (which >= experts) throw std::out_of_range("gather_quantized_matmul: an expert index is out of range");
        Gemm one = g;
        one.m = number * g.m;
        one.b = expert(g.b, which, rows);
        for (size_t i = first; i < last; ++i) {
          if (left[order[i]] >= xs) throw std::out_of_range("gather_quantized_matmul: an index of x is out of range");
        }
        if (number == 1) {
          one.a = x + left[order[first]] * a_size;
          one.c = out + order[first] * c_size;
          multiply(one);
        } else {
          a.resize(number * a_size), c.resize(number * c_size);
          for (size_t i = 0; i < number; ++i) std::memcpy(a.data() + i * a_size, x + left[order[first + i]] * a_size, a_size);
          one.a = a.data(), one.c = c.data();
          multiply(one);
          for (size_t i = 0; i < number; ++i) std::memcpy(out + order[first + i] * c_size, c.data() + i * c_size, c_size);
        }
        first = last;
      }
    });
  }

 private:
  bool transpose_;
  Format format_;
};

mx::array gather_quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales, const std::optional<mx::array>& biases,
                                  const std::optional<mx::array>& lhs_indices, const std::optional<mx::array>& rhs_indices, bool transpose,
                                  int group_size, int bits, const std::string& mode) {
  const Format format{group_size, bits, mode};
  if (!is_floating(x) || (format.affine() && !is_floating(scales))) {
    throw std::invalid_argument("gather_quantized_matmul: expected float32, float16 or bfloat16");
  }
  const auto indices = [](const std::optional<mx::array>& given, const mx::array& of) {
    if (given) return mx::astype(*given, mx::uint32);
    const mx::Shape lead(of.shape().begin(), of.shape().end() - 2);
    return mx::reshape(mx::arange(0, int(leading(of, 2)), mx::uint32), lead);
  };
  mx::array left = indices(lhs_indices, x), right = indices(rhs_indices, w);
  mx::Shape shape = mx::broadcast_shapes(left.shape(), right.shape());
  left = mx::broadcast_to(left, shape), right = mx::broadcast_to(right, shape);
  shape.push_back(x.shape(-2));
  shape.push_back(transpose ? w.shape(-2) : w.shape(-1) * 32 / bits);
  mx::array scale = scales;
  std::optional<mx::array> bias = biases;
  if (bias && bias->dtype() != scale.dtype()) {
    const mx::Dtype both = mx::promote_types(scale.dtype(), bias->dtype());
    scale = mx::astype(scale, both), bias = mx::astype(*bias, both);
  }
  Arrays inputs{x, w, scale};
  if (bias) inputs.push_back(*bias);
  inputs.push_back(left);
  inputs.push_back(right);
  return mx::array(shape, result_dtype(x, scales, format), std::make_shared<GatherQuantizedMatmul>(current_stream(), transpose, format),
                   std::move(inputs));
}

}  // namespace

VLM_BINDING(module) {
  module.def("quantized_matmul", &quantized_matmul, nb::arg("x"), nb::arg("w"), nb::arg("scales"), nb::arg("biases").none(), nb::arg("transpose"),
             nb::arg("group_size"), nb::arg("bits"), nb::arg("mode"));
  module.def("gather_quantized_matmul", &gather_quantized_matmul, nb::arg("x"), nb::arg("w"), nb::arg("scales"), nb::arg("biases").none(),
             nb::arg("lhs_indices").none(), nb::arg("rhs_indices").none(), nb::arg("transpose"), nb::arg("group_size"), nb::arg("bits"),
             nb::arg("mode"));
}

}  // namespace vlm::bind
