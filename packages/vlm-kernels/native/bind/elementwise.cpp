#include "bind/elementwise.h"

#include <cmath>


namespace vlm::bind {
namespace {

mx::array wide(const mx::array& x) { return mx::astype(x, mx::float32); }

// in: x, then weight, then bias, as far as there are any.
class NormKernel : public Kernel {
 public:
  NormKernel(mx::Stream stream, bool centred, bool weighted, bool biased, float eps, mx::Dtype dtype)
      : Kernel(stream, [=](const Arrays& in) { return define(in, centred, weighted, biased, eps, dtype); }),
        centred_(centred), weighted_(weighted), biased_(biased), eps_(eps) {}
  const char* name() const override { return centred_ ? "VlmLayerNorm" : "VlmRmsNorm"; }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const NormKernel&>(other);
    return centred_ == same.centred_ && weighted_ == same.weighted_ && biased_ == same.biased_ && eps_ == same.eps_;
  }

  static Arrays define(const Arrays& in, bool centred, bool weighted, bool biased, float eps, mx::Dtype dtype) {
    mx::array x = wide(in[0]);
    if (centred) x = mx::subtract(x, mx::mean(x, -1, true));
    x = mx::multiply(x, mx::rsqrt(mx::add(mx::mean(mx::square(x), -1, true), mx::array(eps))));
    if (weighted) x = mx::multiply(x, wide(in[1]));
    if (biased) x = mx::add(x, wide(in.back()));
    return {mx::astype(x, dtype)};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array x = contiguous(inputs[0], encoder);
    Norm n;
    n.size = size_t(x.shape(-1)), n.rows = x.size() / n.size;
    n.x = x.data<char>(), n.x_type = type_of(x);
    if (weighted_) {
      const mx::array weight = contiguous(inputs[1], encoder);
      n.weight = weight.data<char>(), n.weight_type = type_of(weight);
    }
    if (biased_) {
      const mx::array bias = contiguous(inputs.back(), encoder);
      n.bias = bias.data<char>(), n.bias_type = type_of(bias);
    }
    n.out = out.data<char>(), n.out_type = type_of(out);
    n.eps = eps_, n.centred = centred_;
    encoder.dispatch([n]() { normalize(n); });
  }

 private:
  bool centred_, weighted_, biased_;
  float eps_;
};

mx::array norm(const mx::array& x, const std::optional<mx::array>& weight, const std::optional<mx::array>& bias, float eps, bool centred) {
  Arrays inputs{x};
  mx::Dtype dtype = x.dtype();
  for (const auto& parameter : {weight, bias}) {
    if (!parameter) continue;
    if (parameter->shape() != mx::Shape{x.shape(-1)}) throw std::invalid_argument("norm: expected weight and bias of the size of the last axis");
    inputs.push_back(*parameter);
    dtype = mx::promote_types(dtype, parameter->dtype());
  }
  return mx::array(x.shape(), dtype, std::make_shared<NormKernel>(current_stream(), centred, weight.has_value(), bias.has_value(), eps, dtype),
                   std::move(inputs));
}

mx::array layer_norm(const mx::array& x, const std::optional<mx::array>& weight, const std::optional<mx::array>& bias, float eps) {
  return norm(x, weight, bias, eps, true);
}

// in: x [B, H, L, D], cos and sin [1 or B, L, R] in float32.
class RopeKernel : public Kernel {
 public:
  RopeKernel(mx::Stream stream, bool interleaved)
      : Kernel(stream, [interleaved](const Arrays& in) { return define(in, interleaved); }), interleaved_(interleaved) {}
  const char* name() const override { return "VlmRope"; }
  bool is_equivalent(const Primitive& other) const override { return interleaved_ == static_cast<const RopeKernel&>(other).interleaved_; }

  static Arrays define(const Arrays& in, bool interleaved) {
    const int half = in[1].shape(-1);
    const mx::Shape shape = in[0].shape();
    const mx::array cos = mx::expand_dims(in[1], 1), sin = mx::expand_dims(in[2], 1), x = wide(in[0]);
    const auto part = [&](int first, int step) {
      mx::Shape from(4, 0), to = shape, strides(4, 1);
      from[3] = first, to[3] = interleaved ? 2 * half : first + half, strides[3] = step;
      return mx::slice(x, from, to, strides);
    };
    const mx::array first = part(0, interleaved ? 2 : 1), second = interleaved ? part(1, 2) : part(half, 1);
    const mx::array a = mx::subtract(mx::multiply(first, cos), mx::multiply(second, sin));
    const mx::array b = mx::add(mx::multiply(second, cos), mx::multiply(first, sin));
    mx::Shape turned = shape;
    turned[3] = 2 * half;
    mx::array result = interleaved ? mx::reshape(mx::stack({a, b}, -1), turned) : mx::concatenate({a, b}, -1);
    result = mx::astype(result, in[0].dtype());
    if (2 * half == shape[3]) return {result};
    mx::Shape from(4, 0);
    from[3] = 2 * half;
    return {mx::concatenate({result, mx::slice(in[0], from, shape)}, -1)};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array x = contiguous_rows(inputs[0], encoder), cos = contiguous(inputs[1], encoder), sin = contiguous(inputs[2], encoder);
    Rope r;
    r.batch = size_t(x.shape(0)), r.heads = size_t(x.shape(1)), r.length = size_t(x.shape(2)), r.size = size_t(x.shape(3));
    r.x = x.data<char>(), r.type = type_of(x);
    r.batch_stride = size_t(x.strides(0)), r.head_stride = size_t(x.strides(1)), r.row_stride = size_t(x.strides(2));
    r.out = out.data<char>();
    r.cos = cos.data<float>(), r.sin = sin.data<float>();
    r.half = size_t(cos.shape(2));
    r.table_batch_stride = cos.shape(0) == 1 ? 0 : r.length * r.half;
    r.interleaved = interleaved_;
    encoder.dispatch([r]() { rotate(r); });
  }

 private:
  bool interleaved_;
};

mx::array rope(const mx::array& x, const mx::array& cos, const mx::array& sin, bool interleaved) {
  if (size_t(cos.shape(2)) > kMaxRopeHalf) throw std::invalid_argument("rope: expected at most 1024 rotated dimensions");
  return mx::array(x.shape(), x.dtype(), std::make_shared<RopeKernel>(current_stream(), interleaved),
                   {x, mx::astype(cos, mx::float32), mx::astype(sin, mx::float32)});
}

class GateKernel : public Kernel {
 public:
  GateKernel(mx::Stream stream, Gate kind, mx::Dtype dtype)
      : Kernel(stream, [kind, dtype](const Arrays& in) { return define(in, kind, dtype); }), kind_(kind) {}
  const char* name() const override { return "VlmGate"; }
  bool is_equivalent(const Primitive& other) const override { return kind_ == static_cast<const GateKernel&>(other).kind_; }

  static Arrays define(const Arrays& in, Gate kind, mx::Dtype dtype) {
    const mx::array x = wide(in[0]);
    const auto scalar = [](double v) { return mx::array(float(v)); };
    mx::array y = x;
    if (kind == Gate::silu) {
      y = mx::multiply(x, mx::sigmoid(x));
    } else {
      const mx::array inner = kind == Gate::gelu_tanh
                                  ? mx::tanh(mx::multiply(scalar(std::sqrt(2 / M_PI)), mx::add(x, mx::multiply(scalar(0.044715), mx::multiply(x, mx::square(x))))))
                                  : mx::erf(mx::multiply(x, scalar(std::sqrt(0.5))));
      y = mx::multiply(mx::multiply(scalar(0.5), x), mx::add(scalar(1), inner));
    }
    return {mx::astype(mx::multiply(y, wide(in[1])), dtype)};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array a = contiguous(inputs[0], encoder), b = contiguous(inputs[1], encoder);
    Gated g;
    g.count = out.size();
    g.gate = a.data<char>(), g.gate_type = type_of(a);
    g.up = b.data<char>(), g.up_type = type_of(b);
    g.out = out.data<char>(), g.out_type = type_of(out);
    g.kind = kind_;
    encoder.dispatch([g]() { vlm::gate(g); });
  }

 private:
  Gate kind_;
};

}  // namespace

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps) { return norm(x, weight, std::nullopt, eps, false); }

mx::array gated(const mx::array& a, const mx::array& b, Gate kind) {
  const mx::Dtype dtype = mx::promote_types(a.dtype(), b.dtype());
  return mx::array(a.shape(), dtype, std::make_shared<GateKernel>(current_stream(), kind, dtype), {a, b});
}

VLM_BINDING(module) {
  module.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("weight").none(), nb::arg("eps"));
  module.def("layer_norm", &layer_norm, nb::arg("x"), nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("eps"));
  module.def("rope", &rope, nb::arg("x"), nb::arg("cos"), nb::arg("sin"), nb::arg("interleaved"));
  module.def("swiglu", [](const mx::array& a, const mx::array& b) { return gated(a, b, Gate::silu); }, nb::arg("gate"), nb::arg("up"));
  module.def("geglu", [](const mx::array& a, const mx::array& b, bool exact) { return gated(a, b, exact ? Gate::gelu_exact : Gate::gelu_tanh); },
             nb::arg("gate"), nb::arg("up"), nb::arg("exact"));
}

}  // namespace vlm::bind
