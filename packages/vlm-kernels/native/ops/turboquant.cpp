#include "ops/turboquant.h"

#include "core/scratch.h"
#include "simd/panel.h"

namespace vlm::VLM_ISA {
namespace {

constexpr float kNever = -__builtin_inff();
// Keys that are unpacked at a time, query rows that share one look-up, and keys of the smallest part that runs on its own.
constexpr size_t kKeys = 64, kSharedRows = 4, kKeysPerPart = 256;

// Coordinates are taken in chunks of W octets: lane n of step j is coordinate 8 (W chunk + n) + j, so that one shift of the words of W
// octets gives W codes. Lanes past the vector's end hold the code 0 and a query of 0.
size_t chunks_of(size_t size) { return ceil_div(size, size_t(8 * W)); }

VLM_INLINE I lanes() {
  I n;
  for (int i = 0; i < W; ++i) n[i] = i;
  return n;
}

// Lane n gets word n >> shift of the `count` words at p; 0 past them.
template <int shift>
VLM_INLINE I spread(const uint32_t* p, size_t count) {
#if defined(__AVX512F__)
  const size_t wanted = smaller(count, size_t(W >> shift));
  const __m512i words = _mm512_maskz_loadu_epi32(__mmask16((1u << wanted) - 1), p);
  if constexpr (shift == 0) return reinterpret_cast<I>(words);
  return reinterpret_cast<I>(_mm512_permutexvar_epi32(reinterpret_cast<__m512i>(lanes() >> shift), words));
#else
  I result;
  for (int i = 0; i < W; ++i) result[i] = size_t(i >> shift) < count ? int32_t(p[i >> shift]) : 0;
  return result;
#endif
}

// The codes of W octets: their low four bits in the nibbles of `low`, the others in those of `high`.
template <int bits>
VLM_INLINE void nibbles(const uint32_t* row, size_t size, size_t chunk, I& low, I& high) {
  constexpr int rest = bits % 4;
  const size_t octets = size / 8, first = chunk * W, left = octets - first;
  I other = I{};
  const uint32_t* field = row + (bits / 4) * octets;
  if constexpr (rest & 2) {
    other = (spread<1>(field + first / 2, ceil_div(left, 2)) >> (2 * (lanes() & 1))) & 0x33333333;
    field += ceil_div(octets, 2);
  }
  if constexpr (rest & 1) {
    const I bit = (spread<2>(field + first / 4, ceil_div(left, 4)) >> (lanes() & 3)) & 0x11111111;
    other |= rest & 2 ? bit << 2 : bit;
  }
  if constexpr (bits < 4) low = other, high = I{};
  else low = spread<0>(row + first, left), high = bits == 8 ? spread<0>(row + octets + first, left) : other;
}

// Centroids of the codes whose low (and high) bits are the lowest nibble of each lane.
template <int bits>
struct Table {
  const float* centroids;
#if defined(__AVX512F__)
  __m512 entries;
  explicit Table(const float* p) : centroids(p) {
    alignas(64) float all[16];
    for (int i = 0; i < 16; ++i) all[i] = p[i % (1 << (bits < 4 ? bits : 4))];
    entries = _mm512_load_ps(all);
  }
#elif defined(__AVX2__)
  __m256 lower, upper;
  explicit Table(const float* p) : centroids(p) {
    alignas(32) float all[16];
    for (int i = 0; i < 16; ++i) all[i] = p[i % (1 << (bits < 4 ? bits : 4))];
    lower = _mm256_load_ps(all), upper = _mm256_load_ps(all + 8);
  }
#else
  explicit Table(const float* p) : centroids(p) {}
#endif

  VLM_INLINE F operator()(I low, I high) const {
    if constexpr (bits > 4) {
      const I code = (low & 15) | ((high & 15) << 4);
#if defined(__AVX512F__)
      return reinterpret_cast<F>(_mm512_i32gather_ps(reinterpret_cast<__m512i>(code), centroids, 4));
#else
      F result;
      for (int i = 0; i < W; ++i) result[i] = centroids[code[i]];
      return result;
#endif
    } else {
#if defined(__AVX512F__)
      return reinterpret_cast<F>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(low), entries));
#elif defined(__AVX2__)
      const __m256i index = reinterpret_cast<__m256i>(low);
      return reinterpret_cast<F>(_mm256_blendv_ps(_mm256_permutevar8x32_ps(lower, index), _mm256_permutevar8x32_ps(upper, index),
                                                  _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
#else
      const I code = low & ((1 << bits) - 1);
      F result;
      for (int i = 0; i < W; ++i) result[i] = centroids[code[i]];
      return result;
#endif
    }
  }
};

// out = x * matrix; both of `size`, not overlapping.
void rotate(const float* x, const float* matrix, size_t size, float* out) {
  size_t d = 0;
  for (; d + 4 * W <= size; d += 4 * W) {
    F sums[4] = {};
    for (size_t j = 0; j < size; ++j) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[i] += load(matrix + j * size + d + size_t(i * W)) * x[j];
    }
    for (int i = 0; i < 4; ++i) store(out + d + size_t(i * W), sums[i]);
  }
  for (; d + W <= size; d += W) {
    F total = F{};
    for (size_t j = 0; j < size; ++j) total += load(matrix + j * size + d) * x[j];
    store(out + d, total);
  }
  for (; d < size; ++d) {
    float total = 0;
    for (size_t j = 0; j < size; ++j) total += matrix[j * size + d] * x[j];
    out[d] = total;
  }
}

struct Keys {
  const TurboquantAttention& a;
  const float* q;  // [rows][chunks][8][W]
  size_t q_stride, rows, batch;

  // What query row `row` sees: keys [first, last).
  size_t last(size_t row) const {
    const int64_t length = smaller(size_t(a.lengths[batch] < 0 ? 0 : a.lengths[batch]), a.keys);
    if (!a.offsets) return size_t(length);
    const int64_t end = int64_t(a.offsets[batch]) + int64_t(row % a.length) + 1;
    return size_t(end < 0 ? 0 : end < length ? end : length);
  }
  size_t first(size_t row) const {
    if (!a.window) return 0;
    const int64_t start = int64_t(a.offsets[batch]) + int64_t(row % a.length) + 1 - a.window;
    return size_t(start < 0 ? 0 : start);
  }
};

// scores[row][i] = q[row] . key i * norm i, for rows [row, row + count).
template <int bits, int count>
void score(const Keys& keys, size_t row, const uint32_t* codes, const uint16_t* norms, size_t num_keys, float* scores, size_t stride) {
  const TurboquantSpec& spec = keys.a.k.spec;
  const Table<bits> table(spec.centroids);
  const size_t chunks = chunks_of(spec.size);
  const float* q = keys.q + row * keys.q_stride;
  for (size_t i = 0; i < num_keys; i += W) {
    F totals[count][W];
    for (int j = 0; j < W; ++j) {
      const uint32_t* key = codes + smaller(i + size_t(j), num_keys - 1) * spec.words;
      F sums[count] = {};
      for (size_t chunk = 0; chunk < chunks; ++chunk) {
        I low, high;
        nibbles<bits>(key, spec.size, chunk, low, high);
#pragma GCC unroll 8
        for (int step = 0; step < 8; ++step) {
          const F value = table(low >> (4 * step), high >> (4 * step));
#pragma GCC unroll 4
          for (int r = 0; r < count; ++r) sums[r] += value * load(q + size_t(r) * keys.q_stride + (chunk * 8 + size_t(step)) * W);
        }
      }
      for (int r = 0; r < count; ++r) totals[r][j] = sums[r];
    }
    alignas(64) float norm[W];
    for (int j = 0; j < W; ++j) norm[j] = from_bf16(norms[smaller(i + size_t(j), num_keys - 1)]);
    for (int r = 0; r < count; ++r) {
      turn(totals[r]);
      F result = F{};
      for (int j = 0; j < W; ++j) result += totals[r][j];
      store(scores + size_t(r) * stride + i, result * load(norm));
    }
  }
}

// sums[row] += weights[row][i] * value i, in the order of chunks; the weights hold the norms.
template <int bits, int count>
void mix(const TurboquantSpec& spec, const I* low, const I* high, size_t num_keys, const float* weights, size_t stride, float* sums,
         size_t sums_stride) {
  const Table<bits> table(spec.centroids);
  const size_t chunks = chunks_of(spec.size);
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    for (int half = 0; half < 8; half += 4) {
      F total[count][4];
      for (int r = 0; r < count; ++r) {
        for (int j = 0; j < 4; ++j) total[r][j] = load(sums + size_t(r) * sums_stride + (chunk * 8 + size_t(half + j)) * W);
      }
      for (size_t i = 0; i < num_keys; ++i) {
        const I lower = low[i * chunks + chunk] >> (4 * half);
        const I upper = bits > 4 ? high[i * chunks + chunk] >> (4 * half) : I{};
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const F value = table(lower >> (4 * j), upper >> (4 * j));
#pragma GCC unroll 4
          for (int r = 0; r < count; ++r) total[r][j] += value * weights[size_t(r) * stride + i];
        }
      }
      for (int r = 0; r < count; ++r) {
        for (int j = 0; j < 4; ++j) store(sums + size_t(r) * sums_stride + (chunk * 8 + size_t(half + j)) * W, total[r][j]);
      }
    }
  }
}

template <int bits>
void score_rows(const Keys& keys, const uint32_t* codes, const uint16_t* norms, size_t num_keys, float* scores, size_t stride) {
  for (size_t row = 0; row < keys.rows; row += kSharedRows) {
    float* to = scores + row * stride;
    switch (smaller(kSharedRows, keys.rows - row)) {
      case 1: score<bits, 1>(keys, row, codes, norms, num_keys, to, stride); break;
      case 2: score<bits, 2>(keys, row, codes, norms, num_keys, to, stride); break;
      case 3: score<bits, 3>(keys, row, codes, norms, num_keys, to, stride); break;
      default: score<bits, 4>(keys, row, codes, norms, num_keys, to, stride); break;
    }
  }
}

template <int bits>
void mix_rows(const TurboquantSpec& spec, const uint32_t* codes, size_t num_keys, size_t rows, const float* weights, size_t stride, float* sums,
              size_t sums_stride) {
  const size_t chunks = chunks_of(spec.size);
  I* low = reinterpret_cast<I*>(scratch_of<float>(kBlock2, 2 * num_keys * chunks * W));
  I* high = low + num_keys * chunks;
  for (size_t i = 0; i < num_keys; ++i) {
    for (size_t chunk = 0; chunk < chunks; ++chunk) nibbles<bits>(codes + i * spec.words, spec.size, chunk, low[i * chunks + chunk], high[i * chunks + chunk]);
  }
  for (size_t row = 0; row < rows; row += kSharedRows) {
    const float* from = weights + row * stride;
    float* to = sums + row * sums_stride;
    switch (smaller(kSharedRows, rows - row)) {
      case 1: mix<bits, 1>(spec, low, high, num_keys, from, stride, to, sums_stride); break;
      case 2: mix<bits, 2>(spec, low, high, num_keys, from, stride, to, sums_stride); break;
      case 3: mix<bits, 3>(spec, low, high, num_keys, from, stride, to, sums_stride); break;
      default: mix<bits, 4>(spec, low, high, num_keys, from, stride, to, sums_stride); break;
    }
  }
}

template <class Body>
void with_bits(int bits, const Body& body) {
  switch (bits) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: return body.template operator()<4>();
    case 5: return body.template operator()<5>();
    case 6: return body.template operator()<6>();
    case 7: return body.template operator()<7>();
    default: return body.template operator()<8>();
  }
}

}  // namespace

void turboquant_attention(const TurboquantAttention& a) {
  const size_t group = a.heads / a.key_heads, rows = group * a.length, pairs = a.batch * a.key_heads;
  if (rows == 0 || pairs == 0) return;
  const TurboquantSpec &ks = a.k.spec, &vs = a.v.spec;
  const size_t q_stride = chunks_of(ks.size) * 8 * W, stride = chunks_of(vs.size) * 8 * W;

  float* q = scratch_of<float>(kShared, pairs * rows * q_stride);
  for_blocks(pairs * rows, [&](size_t index) {
    float* line = scratch_of<float>(kBlock, 2 * ks.size);
    float* to = q + index * q_stride;
    widen(a.type, at(a.type, a.q, index * ks.size), ks.size, line);
    rotate(line, ks.rotation, ks.size, line + ks.size);
    std::memset(to, 0, q_stride * sizeof(float));
    for (size_t d = 0; d < ks.size; ++d) to[(d / 8 / W * 8 + d % 8) * W + d / 8 % W] = line[ks.size + d] * a.scale;
  });

  const size_t wanted = larger(ceil_div(size_t(num_threads()) * 4, pairs), 1);
  const size_t most = larger(ceil_div(a.keys, kKeysPerPart), 1);
  const size_t per_part = larger(ceil_div(ceil_div(a.keys, smaller(most, wanted)), kKeysPerPart) * kKeysPerPart, kKeysPerPart);
  const size_t parts = larger(ceil_div(a.keys, per_part), 1);
  // [pair][part]: sums of the rows, then top and total of each.
  const size_t record = rows * (stride + 2), line_stride = kKeys + W;
  float* results = scratch_of<float>(kShared2, pairs * parts * record);
  for_blocks(pairs * parts, [&](size_t index) {
    const size_t pair = index / parts, part = index % parts;
    const Keys keys{a, q + pair * rows * q_stride, q_stride, rows, pair / a.key_heads};
    float* sums = results + index * record;
    float *top = sums + rows * stride, *total = top + rows;
    std::memset(sums, 0, rows * stride * sizeof(float));
    size_t seen_first = a.keys, seen_last = 0;
    for (size_t row = 0; row < rows; ++row) {
      top[row] = kNever, total[row] = 0;
      seen_first = smaller(seen_first, keys.first(row)), seen_last = larger(seen_last, keys.last(row));
    }
    float* scores = scratch_of<float>(kBlock, rows * line_stride);
    const size_t end = smaller((part + 1) * per_part, seen_last);
    for (size_t first = larger(part * per_part, seen_first); first < end; first += kKeys) {
      const size_t count = smaller(kKeys, end - first), base = pair * a.keys + first;
      with_bits(ks.bits, [&]<int bits>() { score_rows<bits>(keys, a.k.codes + base * ks.words, a.k.norms + base, count, scores, line_stride); });
      for (size_t row = 0; row < rows; ++row) {
        float* line = scores + row * line_stride;
        const size_t from = keys.first(row), to = keys.last(row);
        for (size_t i = 0; i < count; ++i) line[i] = first + i < from || first + i >= to ? kNever : line[i];
        for (size_t i = count; i < ceil_div(count, W) * W; ++i) line[i] = kNever;
        F high = broadcast(top[row]);
        for (size_t i = 0; i < count; i += W) high = maximum(load(line + i), high);
        const float raised = largest(high), zero = raised == kNever ? 0.0f : raised;
        F added = F{};
        for (size_t i = 0; i < count; i += W) {
          const F weight = exponential(load(line + i) - zero);
          store(line + i, weight);
          added += weight;
        }
        if (raised > top[row]) {
          const float shrink = top[row] == kNever ? 0.0f : std::exp(top[row] - raised);
          total[row] *= shrink;
          for (size_t i = 0; i < stride; i += W) store(sums + row * stride + i, load(sums + row * stride + i) * shrink);
          top[row] = raised;
        }
        total[row] += sum(added);
        for (size_t i = 0; i < count; ++i) line[i] *= from_bf16(a.v.norms[base + i]);
      }
      with_bits(vs.bits, [&]<int bits>() { mix_rows<bits>(vs, a.v.codes + base * vs.words, count, rows, scores, line_stride, sums, stride); });
    }
  });

  for_blocks(pairs * rows, [&](size_t index) {
    const size_t pair = index / rows, row = index % rows;
    const float* first = results + pair * parts * record;
    float* joined = scratch_of<float>(kBlock, stride + 2 * vs.size);
    float *line = joined + stride, *back = line + vs.size;
    float top = kNever, total = 0;
    for (size_t part = 0; part < parts; ++part) {
      const float high = first[part * record + rows * stride + row];
      top = high > top ? high : top;
    }
    std::memset(joined, 0, stride * sizeof(float));
    for (size_t part = 0; part < parts; ++part) {
      const float* one = first + part * record;
      const float high = one[rows * stride + row];
      if (high == kNever) continue;
      const float factor = std::exp(high - top);
      total += one[rows * stride + rows + row] * factor;
      for (size_t i = 0; i < stride; i += W) store(joined + i, load(joined + i) + load(one + row * stride + i) * factor);
    }
    // A query that sees no key gets zeros.
    const float factor = total == 0 ? 0.0f : 1.0f / total;
    for (size_t d = 0; d < vs.size; ++d) line[d] = joined[(d / 8 / W * 8 + d % 8) * W + d / 8 % W] * factor;
    rotate(line, vs.rotation, vs.size, back);
    narrow(a.type, back, vs.size, at(a.type, a.out, index * vs.size));
  });
}

void turboquant_encode(const TurboquantEncode& e) {
  constexpr size_t kVectors = 8;
  const TurboquantSpec& spec = e.spec;
  const size_t size = spec.size, octets = size / 8;
  const int magnitudes = 1 << (spec.bits - 1);
  for_blocks(ceil_div(e.vectors, kVectors), [&](size_t block) {
    float* x = scratch_of<float>(kBlock, 2 * (size + W));
    float* y = x + size + W;
    uint32_t* codes = scratch_of<uint32_t>(kBlock2, size + W);
    for (size_t v = block * kVectors; v < smaller((block + 1) * kVectors, e.vectors); ++v) {
      widen(e.type, at(e.type, e.x, v * size), size, x);
      float square = 0;
      for (size_t d = 0; d < size; ++d) square += x[d] * x[d];
      const float length = std::sqrt(square), root = std::sqrt(float(size));
      rotate(x, spec.rotation, size, y);
      const float factor = root / (length > 1e-30f ? length : 1e-30f);
      for (size_t d = 0; d < size; d += W) {
        const F value = load(y + d) * factor;
        const F magnitude = value < 0.0f ? -value : value;
        I code = I{};
        for (int t = 0; t + 1 < magnitudes; ++t) code -= magnitude >= broadcast(e.thresholds[t]);
        code |= (value < 0.0f) & magnitudes;
        store(y + d, value);
        *reinterpret_cast<IUnaligned*>(codes + d) = code;
      }
      float cross = 0, squares = 0;
      for (size_t d = 0; d < size; ++d) {
        const float centroid = spec.centroids[codes[d]];
        cross += y[d] * centroid, squares += centroid * centroid;
      }
      e.norms[v] = to_bf16(length * (cross / squares) / root);
      uint32_t* words = e.codes + v * spec.words;
      int low = 0;
      constexpr int fields[] = {4, 4, 2, 1};
      for (int field : fields) {
        if (field == 4 ? low + 4 > spec.bits : !(spec.bits % 4 & field)) continue;
        const size_t count = ceil_div(size * size_t(field), 32);
        std::memset(words, 0, count * 4);
        for (size_t n = 0; n < octets; ++n) {
          uint32_t octet = 0;
          for (size_t j = 0; j < 8; ++j) octet |= (codes[8 * n + j] >> low & ((1u << field) - 1)) << (4 * j);
          words[n * size_t(field) / 4] |= octet << (size_t(field) * (n % (4 / size_t(field))));
        }
        words += count, low += field;
      }
    }
  });
}

}  // namespace vlm::VLM_ISA
