#include "ops/attention.h"

#include "bind/kernel.h"

namespace vlm::bind {
namespace {

struct Options {
  float scale, softcap;
  bool causal;
  std::vector<int> segments;  // empty: one

  bool operator==(const Options&) const = default;
};

Heads heads_of(const mx::array& x) {
  Heads h;
  h.data = const_cast<char*>(x.data<char>());
  h.type = type_of(x);
  h.batch_stride = size_t(x.strides(0)), h.head_stride = size_t(x.strides(1)), h.row_stride = size_t(x.strides(2));
  return h;
}

// in: q, k, v, then a mask if `masked`, then sinks if `sunk`.
class AttentionKernel : public Kernel {
 public:
  AttentionKernel(mx::Stream stream, Options options, bool masked, bool sunk)
      : Kernel(stream, [options, masked, sunk](const Arrays& in) { return define(in, options, masked, sunk); }),
        options_(std::move(options)), masked_(masked), sunk_(sunk) {}
  const char* name() const override { return "VlmAttention"; }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const AttentionKernel&>(other);
    return options_ == same.options_ && masked_ == same.masked_ && sunk_ == same.sunk_;
  }

  static Arrays define(const Arrays& in, const Options& options, bool masked, bool sunk) {
    if (!options.segments.empty()) {
      std::vector<mx::array> parts;
      int start = 0;
      for (int count : options.segments) {
        Options one = options;
        one.segments.clear();
        Arrays piece;
        for (int i = 0; i < 3; ++i) {
          mx::Shape from(4, 0), to = in[size_t(i)].shape();
          from[2] = start, to[2] = start + count;
          piece.push_back(mx::slice(in[size_t(i)], from, to));
        }
        parts.push_back(define(piece, one, false, false)[0]);
        start += count;
      }
      return {mx::concatenate(parts, 2)};
    }
    const auto wide = [](const mx::array& x) { return mx::astype(x, mx::float32); };
    const int batch = in[0].shape(0), heads = in[0].shape(1), length = in[0].shape(2), size = in[0].shape(3);
    const int key_heads = in[1].shape(1), keys = in[1].shape(2), group = heads / key_heads;
    const mx::array q = mx::reshape(mx::multiply(wide(in[0]), mx::array(options.scale)), {batch, key_heads, group, length, size});
    mx::array scores = mx::matmul(q, mx::swapaxes(mx::expand_dims(wide(in[1]), 2), -1, -2));
    if (options.softcap > 0) scores = mx::multiply(mx::tanh(mx::divide(scores, mx::array(options.softcap))), mx::array(options.softcap));
    const mx::array never = mx::array(-std::numeric_limits<float>::infinity());
    if (options.causal) {
      const mx::array seen = mx::less_equal(mx::arange(0, keys), mx::expand_dims(mx::arange(keys - length, keys), 1));
      scores = mx::where(seen, scores, never);
    }
    if (masked) {
      const mx::array mask = mx::reshape(mx::broadcast_to(in[3], {batch, heads, length, keys}), {batch, key_heads, group, length, keys});
      scores = mask.dtype() == mx::bool_ ? mx::where(mask, scores, never) : mx::add(scores, wide(mask));
    }
    mx::array top = mx::max(scores, -1, true);
    if (sunk) top = mx::maximum(top, mx::reshape(wide(in.back()), {1, key_heads, group, 1, 1}));
    top = mx::stop_gradient(mx::where(mx::equal(top, never), mx::array(0.0f), top));
    const mx::array weights = mx::exp(mx::subtract(scores, top));
    mx::array total = mx::sum(weights, -1, true);
    if (sunk) total = mx::add(total, mx::exp(mx::subtract(mx::reshape(wide(in.back()), {1, key_heads, group, 1, 1}), top)));
    total = mx::where(mx::equal(total, mx::array(0.0f)), mx::array(1.0f), total);
    const mx::array result = mx::divide(mx::matmul(weights, mx::expand_dims(wide(in[2]), 2)), total);
    return {mx::astype(mx::reshape(result, {batch, heads, length, in[2].shape(3)}), in[0].dtype())};
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    auto& out = outputs[0];
    const int64_t heads = out.shape(1), length = out.shape(2), size = out.shape(3);
    // Laid out as [batch, length, heads, size], as the projection that follows reads it.
    const bool plain = heads == 1 || length == 1;
    mx::array::Flags flags{};
    flags.contiguous = true, flags.row_contiguous = plain, flags.col_contiguous = false;
    if (out.size() <= 1 || plain) allocate(out);
    else out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), {length * heads * size, size, heads * size, 1}, flags);
    if (out.size() == 0) return;
    const mx::array q = contiguous_rows(inputs[0], encoder), k = contiguous_rows(inputs[1], encoder), v = contiguous_rows(inputs[2], encoder);
    Attention a;
    a.batch = size_t(q.shape(0)), a.heads = size_t(q.shape(1)), a.length = size_t(q.shape(2)), a.size = size_t(q.shape(3));
    a.key_heads = size_t(k.shape(1)), a.keys = size_t(k.shape(2)), a.value_size = size_t(v.shape(3));
    a.q = heads_of(q), a.k = heads_of(k), a.v = heads_of(v), a.out = heads_of(out);
    a.scale = options_.scale, a.softcap = options_.softcap, a.causal = options_.causal;
    if (masked_) {
      const auto& mask = inputs[3];
      a.mask = mask.data<char>();
      a.mask_is_bool = mask.dtype() == mx::bool_;
      if (!a.mask_is_bool) a.mask_type = type_of(mask);
      for (int i = 0; i < 4; ++i) a.mask_strides[i] = size_t(mask.strides(i));
    }
    if (sunk_) {
      const mx::array sinks = contiguous(inputs.back(), encoder);
      a.sinks = sinks.data<char>(), a.sinks_type = type_of(sinks);
    }
    encoder.dispatch([a, segments = options_.segments]() {
      if (segments.empty()) return attention(a);
      Attention one = a;
      for (int count : segments) {
        one.length = one.keys = size_t(count);
        attention(one);
        for (Heads* h : {&one.q, &one.k, &one.v, &one.out}) {
          h->data = static_cast<char*>(h->data) + size_t(count) * h->row_stride * size_of(h->type);
        }
      }
    });
  }

 private:
  Options options_;
  bool masked_, sunk_;
};

mx::array run(Arrays inputs, Options options, bool masked, bool sunk) {
  mx::Shape shape = inputs[0].shape();
  shape[3] = inputs[2].shape(3);
  const mx::Dtype dtype = inputs[0].dtype();
  return mx::array(shape, dtype, std::make_shared<AttentionKernel>(current_stream(), std::move(options), masked, sunk), std::move(inputs));
}

mx::array attention_op(const mx::array& q, const mx::array& k, const mx::array& v, float scale, bool causal, const std::optional<mx::array>& mask,
                       const std::optional<mx::array>& sinks, float softcap) {
  Arrays inputs{q, k, v};
  if (mask) {
    const bool serves = mask->dtype() == mx::bool_ || is_floating(*mask);
    const mx::array typed = serves ? *mask : mx::astype(*mask, mx::float32);
    inputs.push_back(mx::broadcast_to(typed, {q.shape(0), q.shape(1), q.shape(2), k.shape(2)}));
  }
  if (sinks) inputs.push_back(is_floating(*sinks) ? *sinks : mx::astype(*sinks, mx::float32));
  return run(std::move(inputs), Options{scale, softcap, causal, {}}, mask.has_value(), sinks.has_value());
}

mx::array block_attention_op(const mx::array& q, const mx::array& k, const mx::array& v, float scale, const std::vector<int>& segments) {
  return run({q, k, v}, Options{scale, 0, false, segments}, false, false);
}

}  // namespace

VLM_BINDING(module) {
  module.def("attention", &attention_op, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("scale"), nb::arg("causal"), nb::arg("mask").none(),
             nb::arg("sinks").none(), nb::arg("softcap"));
  module.def("block_attention", &block_attention_op, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("scale"), nb::arg("segments"));
}

}  // namespace vlm::bind
