#include "bind/matmul.h"

#include "core/pool.h"
#include "ops/gemm.h"

namespace vlm::bind {
namespace {

// Sums over the axes that broadcasting added or widened, so that a gradient has the shape of its argument.
mx::array sum_to(const mx::array& gradient, const mx::array& like) {
  mx::array result = gradient;
  std::vector<int> axes;
  const int extra = int(result.ndim()) - int(like.ndim());
  for (int i = 0; i < int(result.ndim()); ++i) {
    if (i < extra || (like.shape(i - extra) == 1 && result.shape(i) != 1)) axes.push_back(i);
  }
  if (!axes.empty()) result = mx::sum(result, axes, false);
  return mx::astype(mx::reshape(result, like.shape()), like.dtype());
}

class Matmul : public Kernel {
 public:
  explicit Matmul(mx::Stream stream)
      : Kernel(stream, [stream](const Arrays& in) { return Arrays{mx::matmul(in[0], in[1], stream)}; }) {}
  const char* name() const override { return "VlmMatmul"; }
  bool is_equivalent(const Primitive&) const override { return true; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array a = contiguous_rows(inputs[0], encoder);
    mx::array b = inputs[1];
    const bool transposed = b.shape(-1) != 1 && b.strides(-2) == 1 && b.strides(-1) >= b.shape(-2);
    if (!transposed) b = contiguous_rows(b, encoder);
    Gemm g;
    g.m = size_t(a.shape(-2)), g.n = size_t(b.shape(-1)), g.k = size_t(a.shape(-1));
    g.a_type = type_of(a), g.a_stride = size_t(a.strides(-2));
    g.b.type = type_of(b), g.b.stride = size_t(b.strides(transposed ? -1 : -2));
    g.transposed = transposed;
    g.c_type = type_of(out), g.c_stride = g.n;
    // Offsets of each product of the batch, in elements.
    std::vector<std::pair<size_t, size_t>> offsets;
    const int lead = int(out.ndim()) - 2;
    const size_t batch = leading(out, 2);
    for (size_t i = 0; i < batch; ++i) {
      size_t rest = i;
      int64_t at_a = 0, at_b = 0;
      for (int axis = lead - 1; axis >= 0; --axis) {
        const int64_t index = int64_t(rest % size_t(out.shape(axis)));
        rest /= size_t(out.shape(axis));
        at_a += index * a.strides(axis);
        at_b += index * b.strides(axis);
      }
      offsets.emplace_back(size_t(at_a), size_t(at_b));
    }
    // Rows of one matrix after another against one B are rows of a larger matrix.
    if (batch > 1) {
      bool one = true;
      for (size_t i = 0; i < batch; ++i) one = one && offsets[i].second == 0 && offsets[i].first == i * g.m * g.a_stride;
      if (one) {
        g.m *= batch;
        offsets.resize(1);
      }
    }
    encoder.dispatch([g, offsets = std::move(offsets), a = a.data<char>(), b = b.data<char>(), c = out.data<char>()]() {
      struct Batch {
        Gemm g;
        const std::pair<size_t, size_t>* offsets;
        const char *a, *b;
        char* c;
        void run(size_t i, bool alone) const {
          Gemm one = g;
          one.a = a + offsets[i].first * size_of(g.a_type);
          one.b.data = b + offsets[i].second * size_of(g.b.type);
          one.c = c + i * g.m * g.n * size_of(g.c_type);
          one.alone = alone;
          multiply(one);
        }
      } batch{g, offsets.data(), a, b, c};
      // Small products are shared out whole; a large one is shared out within.
      const size_t work = g.m * g.n * g.k;
      if (offsets.size() > 1 && (work < (size_t(1) << 22) || offsets.size() >= 16)) {
        parallel(offsets.size(), [](void* context, size_t i) { static_cast<Batch*>(context)->run(i, true); }, &batch);
      } else {
        for (size_t i = 0; i < offsets.size(); ++i) batch.run(i, false);
      }
    });
  }

  std::vector<mx::array> vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& arguments, const Arrays&) override {
    std::vector<mx::array> gradients;
    for (int i : arguments) {
      const mx::array gradient = i == 0 ? dense_matmul(cotangents[0], mx::swapaxes(primals[1], -1, -2, stream()))
                                        : dense_matmul(mx::swapaxes(primals[0], -1, -2, stream()), cotangents[0]);
      gradients.push_back(sum_to(gradient, primals[size_t(i)]));
    }
    return gradients;
  }
};

class Linear : public Kernel {
 public:
  explicit Linear(mx::Stream stream) : Kernel(stream, define) {}
  const char* name() const override { return "VlmLinear"; }
  bool is_equivalent(const Primitive&) const override { return true; }

  static Arrays define(const Arrays& in) {
    const mx::array product = dense_matmul(in[0], mx::swapaxes(in[1], 0, 1));
    return {in.size() == 2 ? product : mx::add(product, in[2])};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    const mx::array x = contiguous(inputs[0], encoder), w = contiguous_rows(inputs[1], encoder);
    Gemm g;
    g.m = leading(x, 1), g.n = size_t(w.shape(0)), g.k = size_t(w.shape(1));
    g.a = x.data<char>(), g.a_type = type_of(x), g.a_stride = g.k;
    g.b.data = w.data<char>(), g.b.type = type_of(w), g.b.stride = size_t(w.strides(0));
    g.c = out.data<char>(), g.c_type = type_of(out), g.c_stride = g.n;
    if (inputs.size() == 3) {
      const mx::array bias = contiguous(inputs[2], encoder);
      g.bias = bias.data<char>(), g.bias_type = type_of(bias);
    }
    encoder.dispatch([g]() { multiply(g); });
  }

  std::vector<mx::array> vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& arguments, const Arrays&) override {
    const auto &x = primals[0], &w = primals[1];
    const auto flat = [&](const mx::array& a) { return mx::reshape(a, {int(leading(a, 1)), a.shape(-1)}, stream()); };
    std::vector<mx::array> gradients;
    for (int i : arguments) {
      const mx::array gradient = i == 0   ? dense_matmul(cotangents[0], w)
                                 : i == 1 ? dense_matmul(mx::swapaxes(flat(cotangents[0]), 0, 1, stream()), flat(x))
                                          : mx::sum(flat(cotangents[0]), 0, false, stream());
      gradients.push_back(mx::astype(gradient, primals[size_t(i)].dtype(), stream()));
    }
    return gradients;
  }
};

mx::Dtype common(const mx::array& a, const mx::array& b) { return mx::promote_types(a.dtype(), b.dtype()); }

}  // namespace

mx::array dense_matmul(const mx::array& left, const mx::array& right) {
  mx::array a = left, b = right;
  if (!is_floating(a) || !is_floating(b)) throw std::invalid_argument("matmul: expected float32, float16 or bfloat16");
  if (a.ndim() == 0 || b.ndim() == 0) throw std::invalid_argument("matmul: expected arrays of at least one axis");
  const bool row = a.ndim() == 1, column = b.ndim() == 1;
  if (row) a = mx::expand_dims(a, 0);
  if (column) b = mx::expand_dims(b, 1);
  if (a.shape(-1) != b.shape(-2)) throw std::invalid_argument("matmul: expected a [..., M, K] and b [..., K, N]");
  mx::Shape lead = mx::broadcast_shapes(mx::Shape(a.shape().begin(), a.shape().end() - 2), mx::Shape(b.shape().begin(), b.shape().end() - 2));
  const auto widen = [&](const mx::array& x) {
    mx::Shape shape = lead;
    shape.push_back(x.shape(-2));
    shape.push_back(x.shape(-1));
    return x.shape() == shape ? x : mx::broadcast_to(x, shape);
  };
  a = widen(a), b = widen(b);
  mx::Shape shape = lead;
  shape.push_back(a.shape(-2));
  shape.push_back(b.shape(-1));
  const mx::Dtype dtype = common(a, b);
  if (a.shape(-1) == 0) return mx::zeros(shape, dtype);
  mx::array result(shape, dtype, std::make_shared<Matmul>(current_stream()), {a, b});
  if (row) result = mx::squeeze(result, -2);
  if (column) result = mx::squeeze(result, -1);
  return result;
}

mx::array dense_linear(const mx::array& x, const mx::array& w, const std::optional<mx::array>& bias) {
  if (!is_floating(x) || !is_floating(w) || (bias && !is_floating(*bias))) {
    throw std::invalid_argument("linear: expected float32, float16 or bfloat16");
  }
  if (w.ndim() != 2 || x.ndim() == 0 || x.shape(-1) != w.shape(1) || (bias && bias->shape() != mx::Shape{w.shape(0)})) {
    throw std::invalid_argument("linear: expected x [..., K], w [N, K], bias [N]");
  }
  mx::Shape shape = x.shape();
  shape.back() = w.shape(0);
  mx::Dtype dtype = common(x, w);
  Arrays inputs{x, w};
  if (bias) {
    dtype = mx::promote_types(dtype, bias->dtype());
    inputs.push_back(*bias);
  }
  if (w.shape(1) == 0) {
    const mx::array zero = mx::zeros(shape, dtype);
    return bias ? mx::add(zero, *bias) : zero;
  }
  return mx::array(shape, dtype, std::make_shared<Linear>(current_stream()), std::move(inputs));
}

VLM_BINDING(module) {
  module.def("matmul", &dense_matmul, nb::arg("a"), nb::arg("b"));
  module.def("linear", &dense_linear, nb::arg("x"), nb::arg("w"), nb::arg("bias") = nb::none());
}

}  // namespace vlm::bind
