#include "ops/attention.h"

#include "core/scratch.h"
#include "simd/panel.h"

namespace vlm::VLM_ISA {
namespace {

constexpr float kNever = -__builtin_inff();

// Queries of one key head that one block of work serves, at most and at least, and keys it takes at a time.
constexpr size_t kMostRows = 384, kLeastRows = 96, kKeysAtATime = 256;
// Up to so many queries per key head, keys and values are read once, as they lie.
constexpr size_t kMaxDecodeRows = 16;
constexpr size_t kKeysPerPart = 256;

const void* row_of(const Heads& h, size_t batch, size_t head, size_t row) {
  return at(h.type, static_cast<const void*>(h.data), batch * h.batch_stride + head * h.head_stride + row * h.row_stride);
}

float sink_of(const Attention& a, size_t head) { return a.sinks ? load_one(a.sinks_type, a.sinks, head) : kNever; }

// Scores of keys [first, first + count) for one query: scale, softcap, masks; what is not seen becomes -inf.
void finish_scores(const Attention& a, size_t batch, size_t head, size_t query, size_t first, size_t count, float* scores) {
  size_t seen = count;
  if (a.causal) {
    // Query i sees keys up to i + keys - length.
    const int64_t last = int64_t(query) + int64_t(a.keys) - int64_t(a.length) - int64_t(first);
    seen = last < 0 ? 0 : smaller(count, size_t(last) + 1);
  }
  for (size_t i = 0; i < seen; i += W) {
    F s = load(scores + i) * a.scale;
    if (a.softcap > 0) s = hyperbolic_tangent(s / a.softcap) * a.softcap;
    store(scores + i, s);
  }
  for (size_t i = seen; i < count; ++i) scores[i] = kNever;
  if (!a.mask) return;
  const size_t step = a.mask_strides[3];
  const size_t base = batch * a.mask_strides[0] + head * a.mask_strides[1] + query * a.mask_strides[2] + first * step;
  if (a.mask_is_bool) {
    const uint8_t* mask = static_cast<const uint8_t*>(a.mask) + base;
    for (size_t i = 0; i < seen; ++i) scores[i] = mask[i * step] ? scores[i] : kNever;
  } else if (step == 1) {
    alignas(64) float wide[kKeysPerPart];
    widen(a.mask_type, at(a.mask_type, a.mask, base), seen, wide);
    for (size_t i = 0; i < seen; ++i) scores[i] += wide[i];
  } else {
    for (size_t i = 0; i < seen; ++i) scores[i] += load_one(a.mask_type, a.mask, base + i * step);
  }
}

// Scores to weights e^(score - top), top raised if a score exceeds it. Returns the sum of the weights; `shrink` is what earlier weights
// must be multiplied with. Room for W more scores is there and holds anything.
float to_weights(float* scores, size_t count, float& top, float& shrink) {
  size_t padded = ceil_div(count, W) * W;
  for (size_t i = count; i < padded; ++i) scores[i] = kNever;
  F high = broadcast(top);
  for (size_t i = 0; i < padded; i += W) high = maximum(load(scores + i), high);
  const float raised = largest(high);
  const float base = raised == kNever ? 0.0f : raised;
  F total = F{};
  for (size_t i = 0; i < padded; i += W) {
    const F weight = exponential(load(scores + i) - base);
    store(scores + i, weight);
    total += weight;
  }
  shrink = top == kNever ? 0.0f : top == raised ? 1.0f : std::exp(top - base);
  top = raised;
  return sum(total);
}

void write_row(const Attention& a, size_t batch, size_t head, size_t query, float* values, float total) {
  const float factor = total == 0 ? 0.0f : 1.0f / total;
  for (size_t i = 0; i < a.value_size; ++i) values[i] *= factor;
  narrow(a.out.type, values, a.value_size, const_cast<void*>(row_of(a.out, batch, head, query)));
}

// Many queries: products of packed tiles, softmax as the keys go by.
template <class Element>
void tiles(const Attention& a) {
  const size_t group = a.heads / a.key_heads;
  // Long blocks pack keys and values less often; every thread should find some.
  size_t most = kMostRows;
  while (most > kLeastRows && a.batch * a.key_heads * ceil_div(a.length * group, most) < 4 * size_t(num_threads())) most /= 2;
  const size_t queries = larger(smaller(a.length, most / group), 1), query_blocks = ceil_div(a.length, queries);
  const Spread spread = make_spread(8);
  const size_t q_steps = steps_of<Element>(a.size), per_step = kPerStep<Element>;
  const size_t key_panels = kKeysAtATime / kColumns, value_panels = ceil_div(a.value_size, kColumns), out_stride = value_panels * kColumns;

  const auto body = [&](size_t index) {
    // Late queries see most keys: the longest blocks go first.
    const size_t block = query_blocks - 1 - index / (a.batch * a.key_heads), which = index % (a.batch * a.key_heads);
    const size_t batch = which / a.key_heads, key_head = which % a.key_heads;
    const size_t l0 = block * queries, l1 = smaller(l0 + queries, a.length), count = l1 - l0, rows = count * group;
    const Strips strips(rows);
    Element* packed = scratch_of<Element>(
        kBlock, (strips.count * strips.height * q_steps + key_panels * kColumns * q_steps + value_panels * kColumns * kKeysAtATime) * per_step +
                    strips.height * kKeysAtATime * 2 + 2 * out_stride + 64);
    Element* packed_q = packed;
    Element* packed_k = packed_q + strips.count * strips.height * q_steps * per_step;
    Element* packed_v = packed_k + key_panels * kColumns * q_steps * per_step;
    Element* packed_p = packed_v + value_panels * kColumns * kKeysAtATime * per_step;
    Element* line = packed_p + strips.height * kKeysAtATime * 2;
    float* sums = scratch_of<float>(kBlock2, rows * out_stride + 2 * rows + strips.height * kKeysAtATime + W);
    float *top = sums + rows * out_stride, *total = top + rows, *scores = total + rows;
    std::memset(sums, 0, rows * out_stride * sizeof(float));
    const auto head_of = [&](size_t row) { return key_head * group + row / count; };
    const auto query_of = [&](size_t row) { return l0 + row % count; };
    for (size_t row = 0; row < rows; ++row) {
      top[row] = sink_of(a, head_of(row));
      total[row] = top[row] == kNever ? 0.0f : 1.0f;
    }
    for (size_t strip = 0; strip < strips.count; ++strip) {
      pack_strip<Element>(
          a.q.type, [&](int r) { return row_of(a.q, batch, head_of(strips.first(strip) + size_t(r)), query_of(strips.first(strip) + size_t(r))); },
          strips.size(strip), a.size, packed_q + strip * strips.height * q_steps * per_step);
    }
    Matrix k, v;
    k.data = row_of(a.k, batch, key_head, 0), k.stride = a.k.row_stride, k.type = a.k.type;
    v.data = row_of(a.v, batch, key_head, 0), v.stride = a.v.row_stride, v.type = a.v.type;
    size_t keys = a.keys;
    if (a.causal) {
      const int64_t limit = int64_t(l1) + int64_t(a.keys) - int64_t(a.length);
      keys = limit < 0 ? 0 : smaller(keys, size_t(limit));
    }
    for (size_t first = 0; first < keys; first += kKeysAtATime) {
      const size_t seen = smaller(kKeysAtATime, keys - first), panels = ceil_div(seen, kColumns), p_steps = steps_of<Element>(seen);
      const size_t k_panel = q_steps * kColumns * per_step, v_panel = p_steps * kColumns * per_step;
      for (size_t p = 0; p < panels; ++p) {
        pack_panel_rows(k, spread, first + p * kColumns, int(smaller(kColumns, seen - p * kColumns)), 0, a.size, packed_k + p * k_panel);
      }
      pack_panels_columns(v, spread, 0, a.value_size, first, seen, packed_v, line);
      for (size_t strip = 0; strip < strips.count; ++strip) {
        const int height = strips.size(strip);
        // Of the keys at hand, as many as the latest query of the strip sees.
        size_t reach = seen;
        if (a.causal) {
          size_t latest = 0;
          for (int r = 0; r < height; ++r) latest = larger(latest, query_of(strips.first(strip) + size_t(r)));
          const int64_t end = int64_t(latest) + 1 + int64_t(a.keys) - int64_t(a.length) - int64_t(first);
          if (end <= 0) continue;
          reach = smaller(seen, size_t(end));
        }
        const Product multiply = product_for<Element>(height);
        const int32_t* strip_q = reinterpret_cast<const int32_t*>(packed_q + strip * strips.height * q_steps * per_step);
        for (size_t p = 0; p < ceil_div(reach, kColumns); ++p) {
          multiply(strip_q, reinterpret_cast<const float*>(packed_k + p * k_panel), q_steps, scores + p * kColumns, kKeysAtATime, false);
        }
        for (int r = 0; r < height; ++r) {
          const size_t row = strips.first(strip) + size_t(r);
          float* line_of_scores = scores + size_t(r) * kKeysAtATime;
          finish_scores(a, batch, head_of(row), query_of(row), first, reach, line_of_scores);
          float shrink;
          const float added = to_weights(line_of_scores, reach, top[row], shrink);
          total[row] = total[row] * shrink + added;
          if (shrink != 1.0f) {
            float* out = sums + row * out_stride;
            for (size_t i = 0; i < out_stride; i += W) store(out + i, load(out + i) * shrink);
          }
        }
        pack_strip<Element>(
            Type::f32, [&](int r) { return static_cast<const void*>(scores + size_t(r) * kKeysAtATime); }, height, reach, packed_p);
        for (size_t p = 0; p < value_panels; ++p) {
          multiply(reinterpret_cast<const int32_t*>(packed_p), reinterpret_cast<const float*>(packed_v + p * v_panel), steps_of<Element>(reach),
                   sums + strips.first(strip) * out_stride + p * kColumns, out_stride, true);
        }
      }
    }
    for (size_t row = 0; row < rows; ++row) write_row(a, batch, head_of(row), query_of(row), sums + row * out_stride, total[row]);
  };
  for_blocks(a.batch * a.key_heads * query_blocks, body);
}

// W dot products at once: scores[i] = q . key i, for keys that lie `stride` elements apart.
template <Type type>
void dots(const float* q, const void* keys, size_t stride, size_t count, size_t size, float* scores) {
  for (size_t i = 0; i < count; i += W) {
    const int valid = int(smaller(W, count - i));
    F totals[W];
    for (int j = 0; j < W; ++j) {
      const void* key = at(type, keys, (i + size_t(j < valid ? j : valid - 1)) * stride);
      F total = F{}, other = F{};
      size_t d = 0;
      for (; d + 2 * W <= size; d += 2 * W) {
        total += load_as<type>(key, d) * load(q + d);
        other += load_as<type>(key, d + W) * load(q + d + W);
      }
      for (; d + W <= size; d += W) total += load_as<type>(key, d) * load(q + d);
      total += other;
      for (; d < size; ++d) total[0] += load_one(type, key, d) * q[d];
      totals[j] = total;
    }
    turn(totals);
    F result = F{};
    for (int j = 0; j < W; ++j) result += totals[j];
    store(scores + i, result);
  }
}

// sums[row] += sum over keys of weight * value, for up to 4 rows of weights that lie `step` apart.
template <Type type, int rows>
void mix(const float* weights, size_t step, const void* values, size_t stride, size_t count, size_t size, float* sums, size_t sums_stride) {
  size_t d = 0;
  for (; d + 2 * W <= size; d += 2 * W) {
    F total[rows][2];
    for (int r = 0; r < rows; ++r) total[r][0] = load(sums + size_t(r) * sums_stride + d), total[r][1] = load(sums + size_t(r) * sums_stride + d + W);
    for (size_t i = 0; i < count; ++i) {
      const F low = load_as<type>(values, i * stride + d), high = load_as<type>(values, i * stride + d + W);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const float weight = weights[size_t(r) * step + i];
        total[r][0] += low * weight;
        total[r][1] += high * weight;
      }
    }
    for (int r = 0; r < rows; ++r) store(sums + size_t(r) * sums_stride + d, total[r][0]), store(sums + size_t(r) * sums_stride + d + W, total[r][1]);
  }
  for (; d < size; ++d) {
    for (int r = 0; r < rows; ++r) {
      float total = sums[size_t(r) * sums_stride + d];
      for (size_t i = 0; i < count; ++i) total += weights[size_t(r) * step + i] * load_one(type, values, i * stride + d);
      sums[size_t(r) * sums_stride + d] = total;
    }
  }
}

template <Type type>
void mix_rows(size_t rows, const float* weights, size_t step, const void* values, size_t stride, size_t count, size_t size, float* sums, size_t sums_stride) {
  for (size_t r = 0; r < rows; r += 4, weights += 4 * step, sums += 4 * sums_stride) {
    switch (smaller(4, rows - r)) {
      case 1: mix<type, 1>(weights, step, values, stride, count, size, sums, sums_stride); break;
      case 2: mix<type, 2>(weights, step, values, stride, count, size, sums, sums_stride); break;
      case 3: mix<type, 3>(weights, step, values, stride, count, size, sums, sums_stride); break;
      default: mix<type, 4>(weights, step, values, stride, count, size, sums, sums_stride); break;
    }
  }
}

// Few queries: the keys are split into parts that run side by side, and their results are joined.
template <Type type>
void decode(const Attention& a) {
  const size_t group = a.heads / a.key_heads, rows = group * a.length;
  const size_t pairs = a.batch * a.key_heads;
  const size_t stride = ceil_div(a.value_size, 16) * 16, q_stride = ceil_div(a.size, 16) * 16;
  size_t parts = larger(ceil_div(a.keys, kKeysPerPart), 1);
  // A part of its own for every few keys would cost more in joining than it gains.
  const size_t wanted = larger(ceil_div(size_t(num_threads()) * 4, pairs), 1);
  const size_t per_part = larger(ceil_div(ceil_div(a.keys, smaller(parts, wanted)), kKeysPerPart) * kKeysPerPart, kKeysPerPart);
  parts = larger(ceil_div(a.keys, per_part), 1);
  // [pair][part][row]: sums, then top and total.
  const size_t record = rows * (stride + 2);
  float* results = scratch_of<float>(kShared, pairs * parts * record);

  const auto body = [&](size_t index) {
    const size_t pair = index / parts, part = index % parts, batch = pair / a.key_heads, key_head = pair % a.key_heads;
    float* sums = results + index * record;
    float *top = sums + rows * stride, *total = top + rows;
    std::memset(sums, 0, rows * stride * sizeof(float));
    float* q = scratch_of<float>(kBlock, rows * q_stride + rows * (kKeysPerPart + W));
    float* scores = q + rows * q_stride;
    for (size_t row = 0; row < rows; ++row) {
      widen(a.q.type, row_of(a.q, batch, key_head * group + row / a.length, row % a.length), a.size, q + row * q_stride);
      top[row] = kNever, total[row] = 0;
    }
    const size_t end = smaller((part + 1) * per_part, a.keys);
    for (size_t first = part * per_part; first < end; first += kKeysPerPart) {
      const size_t count = smaller(kKeysPerPart, end - first);
      for (size_t row = 0; row < rows; ++row) {
        float* line = scores + row * (kKeysPerPart + W);
        dots<type>(q + row * q_stride, row_of(a.k, batch, key_head, first), a.k.row_stride, count, a.size, line);
        finish_scores(a, batch, key_head * group + row / a.length, row % a.length, first, count, line);
        float shrink;
        const float added = to_weights(line, count, top[row], shrink);
        total[row] = total[row] * shrink + added;
        if (shrink != 1.0f) {
          for (size_t i = 0; i < stride; ++i) sums[row * stride + i] *= shrink;
        }
      }
      mix_rows<type>(rows, scores, kKeysPerPart + W, row_of(a.v, batch, key_head, first), a.v.row_stride, count, a.value_size, sums, stride);
    }
  };
  for_blocks(pairs * parts, body);

  for (size_t pair = 0; pair < pairs; ++pair) {
    const size_t batch = pair / a.key_heads, key_head = pair % a.key_heads;
    for (size_t row = 0; row < rows; ++row) {
      const size_t head = key_head * group + row / a.length;
      float* joined = results + pair * parts * record + row * stride;
      float top = sink_of(a, head);
      for (size_t part = 0; part < parts; ++part) {
        const float high = results[(pair * parts + part) * record + rows * stride + row];
        // A part whose top is NaN has NaN sums: it need not win here.
        top = high > top ? high : top;
      }
      const float base = top == kNever ? 0.0f : top;
      float total = a.sinks ? std::exp(sink_of(a, head) - base) : 0.0f;
      for (size_t part = 0; part < parts; ++part) {
        const float* one = results + (pair * parts + part) * record;
        const float high = one[rows * stride + row];
        const float factor = high == kNever ? (one[rows * stride + rows + row] == 0 ? 0.0f : 1.0f) : std::exp(high - base);
        total += one[rows * stride + rows + row] * factor;
        for (size_t i = 0; i < a.value_size; ++i) {
          const float value = one[row * stride + i] * factor;
          joined[i] = part == 0 ? value : joined[i] + value;
        }
      }
      write_row(a, batch, head, row % a.length, joined, total);
    }
  }
}

}  // namespace

void attention(const Attention& a) {
  if (a.batch == 0 || a.heads == 0 || a.length == 0) return;
  const bool few = a.heads / a.key_heads * a.length <= kMaxDecodeRows && a.length <= 4;
  if (few && a.k.type == a.v.type) {
    switch (a.k.type) {
      case Type::f32: return decode<Type::f32>(a);
      case Type::f16: return decode<Type::f16>(a);
      case Type::bf16: return decode<Type::bf16>(a);
    }
  }
  const bool pairs = kPairs && a.q.type == Type::bf16 && a.k.type == Type::bf16 && a.v.type == Type::bf16;
  if (pairs) tiles<uint16_t>(a);
  else tiles<float>(a);
}

}  // namespace vlm::VLM_ISA
