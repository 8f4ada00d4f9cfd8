#include "ops/turboquant.h"

#include "bind/kernel.h"

#include <nanobind/stl/pair.h>

namespace vlm::bind {
namespace {

[[noreturn]] Arrays no_definition(const Arrays&) { throw std::runtime_error("TurboQuant: gradients and vmap are those of the reference: VLM_KERNELS=reference"); }

TurboquantSpec spec_of(const mx::array& rotation, const mx::array& centroids, int bits, int words) {
  TurboquantSpec spec;
  spec.bits = bits, spec.size = size_t(rotation.shape(0)), spec.words = size_t(words);
  spec.rotation = rotation.data<float>(), spec.centroids = centroids.data<float>();
  return spec;
}

// in: q, key codes, key norms, value codes, value norms, key rotation, value rotation back, key centroids, value centroids, lengths, and
// offsets if causal. All contiguous but q.
class TurboquantAttentionKernel : public Kernel {
 public:
  TurboquantAttentionKernel(mx::Stream stream, float scale, int key_bits, int value_bits, int window)
      : Kernel(stream, no_definition), scale_(scale), key_bits_(key_bits), value_bits_(value_bits), window_(window) {}
  const char* name() const override { return "VlmTurboquantAttention"; }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const TurboquantAttentionKernel&>(other);
    return scale_ == same.scale_ && key_bits_ == same.key_bits_ && value_bits_ == same.value_bits_ && window_ == same.window_;
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    allocate(out);
    if (out.size() == 0) return;
    Arrays in;
    for (const auto& input : inputs) in.push_back(contiguous(input, encoder));
    TurboquantAttention a;
    a.batch = size_t(in[0].shape(0)), a.heads = size_t(in[0].shape(1)), a.length = size_t(in[0].shape(2));
    a.key_heads = size_t(in[1].shape(1)), a.keys = size_t(in[1].shape(2));
    a.type = type_of(in[0]), a.q = in[0].data<char>(), a.out = out.data<char>();
    a.k = {spec_of(in[5], in[7], key_bits_, in[1].shape(3)), in[1].data<uint32_t>(), reinterpret_cast<const uint16_t*>(in[2].data<char>())};
    a.v = {spec_of(in[6], in[8], value_bits_, in[3].shape(3)), in[3].data<uint32_t>(), reinterpret_cast<const uint16_t*>(in[4].data<char>())};
    a.scale = scale_, a.window = window_;
    a.lengths = in[9].data<int32_t>(), a.offsets = in.size() > 10 ? in[10].data<int32_t>() : nullptr;
    encoder.dispatch([a]() { turboquant_attention(a); });
  }

 private:
  float scale_;
  int key_bits_, value_bits_, window_;
};

// in: x, rotation, thresholds, centroids; out: codes, norms.
class TurboquantEncodeKernel : public Kernel {
 public:
  TurboquantEncodeKernel(mx::Stream stream, int bits) : Kernel(stream, no_definition), bits_(bits) {}
  const char* name() const override { return "VlmTurboquantEncode"; }
  bool is_equivalent(const Primitive& other) const override { return bits_ == static_cast<const TurboquantEncodeKernel&>(other).bits_; }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (auto& out : outputs) allocate(out);
    if (outputs[0].size() == 0) return;
    Arrays in;
    for (const auto& input : inputs) in.push_back(contiguous(input, encoder));
    TurboquantEncode e;
    e.vectors = leading(in[0], 1), e.type = type_of(in[0]), e.x = in[0].data<char>();
    e.spec = spec_of(in[1], in[3], bits_, outputs[0].shape(-1));
    e.thresholds = in[2].data<float>();
    e.codes = outputs[0].data<uint32_t>(), e.norms = reinterpret_cast<uint16_t*>(outputs[1].data<char>());
    encoder.dispatch([e]() { turboquant_encode(e); });
  }

 private:
  int bits_;
};

mx::array attention_op(Arrays inputs, float scale, int key_bits, int value_bits, int window) {
  mx::Shape shape = inputs[0].shape();
  shape[3] = inputs[6].shape(0);
  const mx::Dtype dtype = inputs[0].dtype();
  return mx::array(shape, dtype, std::make_shared<TurboquantAttentionKernel>(current_stream(), scale, key_bits, value_bits, window), std::move(inputs));
}

std::pair<mx::array, mx::array> encode_op(const mx::array& x, const mx::array& rotation, const mx::array& thresholds, const mx::array& centroids,
                                          int bits, int words) {
  mx::Shape norms(x.shape().begin(), x.shape().end() - 1), codes = norms;
  codes.push_back(words);
  auto out = mx::array::make_arrays({codes, norms}, {mx::uint32, mx::bfloat16}, std::make_shared<TurboquantEncodeKernel>(current_stream(), bits),
                                    {x, rotation, thresholds, centroids});
  return {out[0], out[1]};
}

}  // namespace

VLM_BINDING(module) {
  module.def("turboquant_attention", &attention_op, nb::arg("inputs"), nb::arg("scale"), nb::arg("key_bits"), nb::arg("value_bits"), nb::arg("window"));
  module.def("turboquant_encode", &encode_op, nb::arg("x"), nb::arg("rotation"), nb::arg("thresholds"), nb::arg("centroids"), nb::arg("bits"),
             nb::arg("words"));
}

}  // namespace vlm::bind
