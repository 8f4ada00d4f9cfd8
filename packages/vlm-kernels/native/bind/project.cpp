#include "ops/project.h"

#include <nanobind/stl/tuple.h>

#include "bind/elementwise.h"
#include "bind/matmul.h"

namespace vlm::bind {
namespace {

// Weight; scales and biases of a packed one; bias of the layer; group size, bits and mode of a packed one.
using Layer = std::tuple<mx::array, std::optional<mx::array>, std::optional<mx::array>, std::optional<mx::array>, int, int, std::string>;

// Which inputs a part has, in this order: weight, scales, biases, bias.
struct Part {
  bool packed, offset, biased;
  Format format;

  bool operator==(const Part&) const = default;
};

struct Options {
  std::vector<Part> parts;
  bool normed = false;  // its weight follows x
  float eps = 0;
  bool residual = false;  // the last input
  std::optional<Gate> gate;

  bool operator==(const Options&) const = default;
};

class ProjectKernel : public Kernel {
 public:
  ProjectKernel(mx::Stream stream, Options options)
      : Kernel(stream, [options](const Arrays& in) { return define(in, options); }), options_(std::move(options)) {}
  const char* name() const override { return "VlmProject"; }
  bool is_equivalent(const Primitive& other) const override { return options_ == static_cast<const ProjectKernel&>(other).options_; }

  static Arrays define(const Arrays& in, const Options& options) {
    size_t next = 1;
    const mx::array x = options.normed ? rms_norm(in[0], in[next++], options.eps) : in[0];
    Arrays results;
    for (const Part& part : options.parts) {
      const mx::array& w = in[next++];
      if (!part.packed) {
        results.push_back(dense_linear(x, w, part.biased ? std::optional(in[next++]) : std::nullopt));
        continue;
      }
      const mx::array& scales = in[next++];
      const auto biases = part.offset ? std::optional(in[next++]) : std::nullopt;
      results.push_back(quantized_matmul(x, w, scales, biases, true, part.format.group_size, part.format.bits, part.format.mode));
      if (part.biased) results.back() = mx::add(results.back(), in[next++]);
    }
    if (options.gate) return {gated(results[0], results[1], *options.gate)};
    if (options.residual) return {mx::add(results[0], in.back())};
    return results;
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (auto& out : outputs) allocate(out);
    if (outputs[0].size() == 0 && outputs.size() == 1) return;
    size_t next = 0;
    const auto take = [&]() { return contiguous(inputs[next++], encoder); };
    const mx::array x = take();
    Project p;
    p.count = options_.parts.size();
    const size_t k = size_t(x.shape(-1)), m = k == 0 ? 0 : x.size() / k;
    mx::Dtype dtype = x.dtype();
    if (options_.normed) {
      const mx::array weight = take();
      dtype = mx::promote_types(dtype, weight.dtype());
      p.normed = true;
      p.norm.rows = m, p.norm.size = k, p.norm.eps = options_.eps;
      p.norm.x = x.data<char>(), p.norm.x_type = type_of(x);
      p.norm.weight = weight.data<char>(), p.norm.weight_type = type_of(weight);
      p.norm.out_type = type_of(dtype);
    }
    for (size_t i = 0; i < p.count; ++i) {
      const Part& part = options_.parts[i];
      Gemm& g = p.parts[i];
      const mx::array w = take();
      g.m = m, g.n = size_t(w.shape(0)), g.k = k;
      g.a = x.data<char>(), g.a_type = type_of(x), g.a_stride = k, g.c_stride = g.n;
      mx::Dtype result = dtype;
      if (part.packed) {
        const mx::array scales = take();
        const auto biases = part.offset ? std::optional(take()) : std::nullopt;
        g.b = packed(w, scales, biases ? &*biases : nullptr, part.format);
        if (part.format.affine()) result = mx::promote_types(result, scales.dtype());
      } else {
        g.b.data = w.data<char>(), g.b.type = type_of(w), g.b.stride = k;
        result = mx::promote_types(result, w.dtype());
      }
      if (part.biased) {
        const mx::array bias = take();
        g.bias = bias.data<char>(), g.bias_type = type_of(bias);
        result = mx::promote_types(result, bias.dtype());
      }
      g.c_type = type_of(result);
      if (outputs.size() == p.count && !options_.gate && !options_.residual) g.c = outputs[i].data<char>();
    }
    if (options_.gate) p.gated = true, p.kind = *options_.gate;
    if (options_.residual) {
      const mx::array residual = take();
      p.residual = residual.data<char>(), p.residual_type = type_of(residual);
    }
    p.out = outputs[0].data<char>(), p.out_type = type_of(outputs[0]);
    encoder.dispatch([p]() { project(p); });
  }

 private:
  Options options_;
};

Arrays project_op(const mx::array& x, const std::vector<Layer>& layers, const std::optional<mx::array>& norm_weight, float eps,
                  const std::string& gate, const std::optional<mx::array>& residual) {
  if (layers.empty() || layers.size() > kMaxParts) throw std::invalid_argument("project: expected one to four layers");
  Options options;
  options.normed = norm_weight.has_value(), options.eps = eps, options.residual = residual.has_value();
  if (gate == "swiglu") options.gate = Gate::silu;
  if (gate == "geglu_tanh") options.gate = Gate::gelu_tanh;
  if (gate == "geglu_exact") options.gate = Gate::gelu_exact;
  Arrays inputs{x};
  mx::Dtype dtype = x.dtype();
  if (norm_weight) {
    inputs.push_back(*norm_weight);
    dtype = mx::promote_types(dtype, norm_weight->dtype());
  }
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& [w, scales, biases, bias, group_size, bits, mode] : layers) {
    const Part part{scales.has_value(), biases.has_value(), bias.has_value(), Format{group_size, bits, mode}};
    mx::Dtype result = dtype;
    inputs.push_back(w);
    if (part.packed) {
      // Kernels read scales and biases in one type.
      const mx::Dtype type = biases ? mx::promote_types(scales->dtype(), biases->dtype()) : scales->dtype();
      inputs.push_back(mx::astype(*scales, type));
      if (biases) inputs.push_back(mx::astype(*biases, type));
      if (part.format.affine()) result = mx::promote_types(result, type);
    } else {
      result = mx::promote_types(result, w.dtype());
    }
    if (bias) {
      inputs.push_back(*bias);
      result = mx::promote_types(result, bias->dtype());
    }
    options.parts.push_back(part);
    shapes.push_back(x.shape());
    shapes.back().back() = w.shape(0);
    dtypes.push_back(result);
  }
  if (options.gate) {
    shapes.resize(1);
    dtypes = {mx::promote_types(dtypes[0], dtypes[1])};
  }
  if (residual) {
    inputs.push_back(*residual);
    dtypes = {mx::promote_types(dtypes[0], residual->dtype())};
  }
  return mx::array::make_arrays(std::move(shapes), dtypes, std::make_shared<ProjectKernel>(current_stream(), std::move(options)), inputs);
}

}  // namespace

VLM_BINDING(module) {
  module.def("project", &project_op, nb::arg("x"), nb::arg("layers"), nb::arg("norm_weight").none(), nb::arg("eps"), nb::arg("gate"),
             nb::arg("residual").none());
}

}  // namespace vlm::bind
