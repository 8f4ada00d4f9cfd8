// Drives the library without MLX: every op on every instruction set against double precision, and the pool under contention and fork.
//
// Usage: vlm_native_tests [no-fork]
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"
#include "ops/project.h"
#include "ops/roof.h"

namespace {

using vlm::Isa;
using vlm::Matrix;
using vlm::Mode;
using vlm::Type;

#if defined(__aarch64__)
using Half = __fp16;
#else
using Half = _Float16;
#endif

int g_failures = 0;
std::mt19937 g_random(7);

void check(bool good, const std::string& what) {
  if (!good) {
    ++g_failures;
    std::printf("FAILED %s\n", what.c_str());
  }
}

float round_to(Type type, float f) {
  if (type == Type::f32) return f;
  if (type == Type::bf16) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  return float(Half(f));
}

// An array of one of the three types that owns its memory and remembers its values; the guard bytes catch overruns by a sanitizer.
struct Array {
  Type type;
  std::vector<unsigned char> bytes;
  std::vector<double> values;

  Array(Type type, size_t count) : type(type), bytes(count * vlm::size_of(type)), values(count) {}
  void set(size_t i, float f) {
    f = round_to(type, f);
    values[i] = f;
    if (type == Type::f32) {
      std::memcpy(&bytes[4 * i], &f, 4);
    } else if (type == Type::bf16) {
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      const uint16_t half = uint16_t(bits >> 16);
      std::memcpy(&bytes[2 * i], &half, 2);
    } else {
      const Half half = Half(f);
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  float get(size_t i) const {
    if (type == Type::f32) {
      float f;
      std::memcpy(&f, &bytes[4 * i], 4);
      return f;
    }
    uint16_t half;
    std::memcpy(&half, &bytes[2 * i], 2);
    if (type == Type::bf16) {
      const uint32_t bits = uint32_t(half) << 16;
      float f;
      std::memcpy(&f, &bits, 4);
      return f;
    }
    Half h;
    std::memcpy(&h, &half, 2);
    return float(h);
  }
};

Array random_array(Type type, size_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Array array(type, count);
  for (size_t i = 0; i < count; ++i) array.set(i, normal(g_random));
  return array;
}

// The float types' rounding of a result: half a unit in the last place, and float sums.
double bound(Type type) { return type == Type::f32 ? 4e-6 : type == Type::f16 ? 8e-4 : 5e-3; }

void compare(const Array& got, const std::vector<double>& want, const std::string& what) {
  double top = 1e-30, worst = 0;
  for (double w : want) top = std::max(top, std::abs(w));
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(got.get(i) - want[i]) / top;
    worst = std::isnan(error) ? 1e30 : std::max(worst, error);
  }
  check(worst <= bound(got.type), what + ": error " + std::to_string(worst));
}

const char* name(Type type) { return type == Type::f32 ? "f32" : type == Type::f16 ? "f16" : "bf16"; }

double e2m1(int code) {
  static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8 ? -1 : 1) * values[code & 7];
}

double e4m3(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double value = exponent == 0 ? mantissa / 8.0 * std::pow(2, -6) : (1 + mantissa / 8.0) * std::pow(2, exponent - 7);
  return code & 128 ? -value : value;
}

// A packed matrix of random codes and scales, with its values.
struct Packed {
  std::vector<uint8_t> codes;
  Array scales, biases;
  std::vector<uint8_t> small_scales;
  std::vector<double> values;
  Matrix matrix;

  Packed(size_t rows, size_t columns, int bits, int group, Mode mode, Type type)
      : codes(rows * columns * size_t(bits) / 8), scales(type, rows * columns / size_t(group)), biases(scales),
        small_scales(scales.values.size()), values(rows * columns) {
    std::uniform_int_distribution<int> any(0, (1 << bits) - 1);
    std::uniform_real_distribution<float> unit(0.01f, 0.1f);
    for (size_t i = 0; i < scales.values.size(); ++i) {
      scales.set(i, unit(g_random));
      biases.set(i, -unit(g_random) * float(1 << (bits - 1)));
      small_scales[i] = mode == Mode::nvfp4 ? uint8_t(8 + g_random() % 40) : uint8_t(120 + g_random() % 8);
    }
    for (size_t i = 0; i < values.size(); ++i) {
      int code = any(g_random);
      if (mode == Mode::mxfp8 && (code & 127) == 127) code ^= 1;
      const size_t bit = i * size_t(bits), g = i / size_t(group);
      for (int b = 0; b < bits; ++b) codes[(bit + size_t(b)) / 8] |= uint8_t(((code >> b) & 1) << ((bit + size_t(b)) % 8));
      if (mode == Mode::affine) values[i] = code * scales.values[g] + biases.values[g];
      else if (mode == Mode::nvfp4) values[i] = e2m1(code) * e4m3(small_scales[g]);
      else values[i] = (mode == Mode::mxfp4 ? e2m1(code) : e4m3(code)) * std::pow(2, int(small_scales[g]) - 127);
    }
    matrix.quantized = true;
    matrix.data = codes.data();
    matrix.end = codes.data() + codes.size();
    matrix.stride = columns * size_t(bits) / 8;
    matrix.type = type;
    matrix.scales = mode == Mode::affine ? static_cast<const void*>(scales.bytes.data()) : small_scales.data();
    matrix.biases = biases.bytes.data();
    matrix.groups = columns / size_t(group);
    matrix.group_size = group;
    matrix.bits = bits;
    matrix.mode = mode;
  }
};

void run_product(size_t m, size_t n, size_t k, const Array& a, const Matrix& b, const std::vector<double>& values, bool transposed,
                 bool biased, bool alone, const std::string& what) {
  Array c(a.type, m * n), bias = random_array(a.type, n);
  vlm::Gemm g;
  g.m = m, g.n = n, g.k = k;
  g.a = a.bytes.data(), g.a_type = a.type, g.a_stride = k;
  g.b = b, g.transposed = transposed;
  g.c = c.bytes.data(), g.c_type = c.type, g.c_stride = n;
  g.bias = biased ? bias.bytes.data() : nullptr, g.bias_type = bias.type;
  g.alone = alone;
  vlm::multiply(g);
  std::vector<double> want(m * n);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double total = biased ? bias.values[j] : 0;
      for (size_t l = 0; l < k; ++l) total += a.values[i * k + l] * (transposed ? values[j * k + l] : values[l * n + j]);
      want[i * n + j] = total;
    }
  }
  compare(c, want, what);
}

void test_products() {
  const size_t shapes[][3] = {{1, 1, 1}, {1, 70, 128}, {2, 33, 64}, {3, 130, 257}, {4, 5, 1}, {5, 64, 96}, {13, 31, 33}, {70, 95, 300}, {25, 40, 4200}};
  for (const auto& [m, n, k] : shapes) {
    for (Type type : {Type::f32, Type::f16, Type::bf16}) {
      const Array a = random_array(type, m * k), b = random_array(type, n * k, 1 / std::sqrt(float(k)));
      for (int variant = 0; variant < 4; ++variant) {
        const bool transposed = variant < 2;
        Matrix matrix;
        matrix.data = b.bytes.data();
        matrix.stride = transposed ? k : n;
        matrix.type = type;
        run_product(m, n, k, a, matrix, b.values, transposed, variant % 2, variant == 1 || variant == 3,
                    std::string("dense ") + name(type) + " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
                        (transposed ? " t" : " n"));
      }
    }
  }
}

void test_quantized() {
  struct Format {
    int bits, group;
    Mode mode;
  };
  std::vector<Format> formats = {{4, 32, Mode::mxfp4}, {8, 32, Mode::mxfp8}, {4, 16, Mode::nvfp4}};
  for (int bits : {1, 2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) formats.push_back({bits, group, Mode::affine});
  }
  for (const auto& f : formats) {
    for (Type type : {Type::f32, Type::f16, Type::bf16}) {
      for (size_t m : {1, 2, 3, 4, 7, 29}) {
        for (bool transposed : {true, false}) {
          const size_t k = 256, n = transposed ? 37 : 128;
          const Array a = random_array(type, m * k);
          const Packed b(transposed ? n : k, transposed ? k : n, f.bits, f.group, f.mode, type);
          run_product(m, n, k, a, b.matrix, b.values, transposed, m == 2, m == 3,
                      std::string("quantized ") + name(type) + " bits " + std::to_string(f.bits) + " group " + std::to_string(f.group) +
                          " mode " + std::to_string(int(f.mode)) + " m " + std::to_string(m) + (transposed ? " t" : " n"));
        }
      }
    }
  }
}

void test_attention() {
  struct Shape {
    size_t batch, heads, key_heads, length, keys, size, value_size;
  };
  const Shape shapes[] = {{1, 2, 1, 1, 1, 8, 8}, {2, 4, 2, 1, 300, 64, 64}, {1, 6, 3, 3, 37, 80, 48}, {1, 2, 2, 90, 90, 33, 17}, {1, 8, 1, 19, 150, 128, 128}, {1, 2, 2, 5, 2, 16, 16}};
  for (const Shape& s : shapes) {
    for (Type type : {Type::f32, Type::f16, Type::bf16}) {
      const Array q = random_array(type, s.batch * s.heads * s.length * s.size), k = random_array(type, s.batch * s.key_heads * s.keys * s.size);
      const Array v = random_array(type, s.batch * s.key_heads * s.keys * s.value_size), sinks = random_array(type, s.heads);
      const Array added = random_array(type, s.length * s.keys);
      std::vector<uint8_t> seen(s.heads * s.length * s.keys);
      for (auto& byte : seen) byte = uint8_t(g_random() % 3 != 0);
      for (int variant = 0; variant < 6; ++variant) {
        Array out(type, s.batch * s.heads * s.length * s.value_size);
        vlm::Attention a;
        a.batch = s.batch, a.heads = s.heads, a.key_heads = s.key_heads, a.length = s.length, a.keys = s.keys;
        a.size = s.size, a.value_size = s.value_size;
        const auto heads = [](const Array& x, size_t heads, size_t rows, size_t size) {
          return vlm::Heads{const_cast<unsigned char*>(x.bytes.data()), x.type, heads * rows * size, rows * size, size};
        };
        a.q = heads(q, s.heads, s.length, s.size), a.k = heads(k, s.key_heads, s.keys, s.size);
        a.v = heads(v, s.key_heads, s.keys, s.value_size), a.out = heads(out, s.heads, s.length, s.value_size);
        a.scale = 0.2f;
        a.causal = variant == 1 || variant == 4;
        if (variant == 2) a.mask = seen.data(), a.mask_is_bool = true, a.mask_strides[1] = s.length * s.keys, a.mask_strides[2] = s.keys, a.mask_strides[3] = 1;
        if (variant == 3) a.mask = added.bytes.data(), a.mask_type = type, a.mask_strides[2] = s.keys, a.mask_strides[3] = 1;
        if (variant == 4) a.sinks = sinks.bytes.data(), a.sinks_type = type;
        if (variant == 5) a.softcap = 3;
        vlm::attention(a);
        std::vector<double> want(out.values.size());
        const size_t group = s.heads / s.key_heads;
        for (size_t b = 0; b < s.batch; ++b) {
          for (size_t h = 0; h < s.heads; ++h) {
            for (size_t l = 0; l < s.length; ++l) {
              std::vector<double> scores(s.keys);
              double top = variant == 4 ? sinks.values[h] : -INFINITY;
              for (size_t i = 0; i < s.keys; ++i) {
                double score = 0;
                for (size_t d = 0; d < s.size; ++d) {
                  score += q.values[((b * s.heads + h) * s.length + l) * s.size + d] * k.values[((b * s.key_heads + h / group) * s.keys + i) * s.size + d];
                }
                score *= 0.2f;
                if (variant == 5) score = 3 * std::tanh(score / 3);
                if (a.causal && i + s.length > l + s.keys) score = -INFINITY;
                if (variant == 2 && !seen[(h * s.length + l) * s.keys + i]) score = -INFINITY;
                if (variant == 3) score += added.values[l * s.keys + i];
                scores[i] = score;
                top = std::max(top, score);
              }
              double total = variant == 4 ? std::exp(sinks.values[h] - top) : 0;
              for (double& score : scores) total += score = score == -INFINITY ? 0 : std::exp(score - top);
              for (size_t d = 0; d < s.value_size; ++d) {
                double value = 0;
                for (size_t i = 0; i < s.keys; ++i) value += scores[i] * v.values[((b * s.key_heads + h / group) * s.keys + i) * s.value_size + d];
                want[((b * s.heads + h) * s.length + l) * s.value_size + d] = total == 0 ? 0 : value / total;
              }
            }
          }
        }
        compare(out, want, std::string("attention ") + name(type) + " length " + std::to_string(s.length) + " keys " + std::to_string(s.keys) + " variant " + std::to_string(variant));
      }
    }
  }
}

void test_elementwise() {
  for (Type type : {Type::f32, Type::f16, Type::bf16}) {
    for (size_t size : {1, 7, 64, 130}) {
      const size_t rows = 5;
      const Array x = random_array(type, rows * size), weight = random_array(type, size), bias = random_array(type, size);
      for (bool centred : {false, true}) {
        Array out(type, rows * size);
        vlm::Norm n;
        n.rows = rows, n.size = size, n.eps = 1e-5f, n.centred = centred;
        n.x = x.bytes.data(), n.x_type = type, n.weight = weight.bytes.data(), n.weight_type = type;
        n.bias = centred ? bias.bytes.data() : nullptr, n.bias_type = type, n.out = out.bytes.data(), n.out_type = type;
        vlm::normalize(n);
        std::vector<double> want(rows * size);
        for (size_t r = 0; r < rows; ++r) {
          double mean = 0, square = 0;
          for (size_t i = 0; i < size; ++i) mean += x.values[r * size + i] / double(size);
          if (!centred) mean = 0;
          for (size_t i = 0; i < size; ++i) square += std::pow(x.values[r * size + i] - mean, 2) / double(size);
          for (size_t i = 0; i < size; ++i) {
            want[r * size + i] = (x.values[r * size + i] - mean) / std::sqrt(square + 1e-5) * weight.values[i] + (centred ? bias.values[i] : 0);
          }
        }
        compare(out, want, std::string("norm ") + name(type) + " " + std::to_string(size) + (centred ? " centred" : ""));
      }
      const Array up = random_array(type, rows * size);
      for (vlm::Gate kind : {vlm::Gate::silu, vlm::Gate::gelu_tanh, vlm::Gate::gelu_exact}) {
        Array out(type, rows * size);
        vlm::Gated g;
        g.count = rows * size, g.kind = kind, g.gate = x.bytes.data(), g.up = up.bytes.data(), g.out = out.bytes.data();
        g.gate_type = g.up_type = g.out_type = type;
        vlm::gate(g);
        std::vector<double> want(rows * size);
        for (size_t i = 0; i < want.size(); ++i) {
          const double v = x.values[i], cube = v + 0.044715 * v * v * v;
          const double y = kind == vlm::Gate::silu        ? v / (1 + std::exp(-v))
                           : kind == vlm::Gate::gelu_tanh ? 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * cube))
                                                          : 0.5 * v * (1 + std::erf(v / std::sqrt(2)));
          want[i] = y * up.values[i];
        }
        compare(out, want, std::string("gate ") + name(type) + " " + std::to_string(int(kind)));
      }
    }
    for (bool interleaved : {false, true}) {
      const size_t batch = 2, heads = 3, length = 5, size = 22, half = 7;
      const Array x = random_array(type, batch * heads * length * size), cos = random_array(Type::f32, batch * length * half);
      const Array sin = random_array(Type::f32, batch * length * half);
      Array out(type, x.values.size());
      vlm::Rope r;
      r.batch = batch, r.heads = heads, r.length = length, r.size = size, r.half = half, r.interleaved = interleaved, r.type = type;
      r.x = x.bytes.data(), r.out = out.bytes.data(), r.batch_stride = heads * length * size, r.head_stride = length * size, r.row_stride = size;
      r.cos = reinterpret_cast<const float*>(cos.bytes.data()), r.sin = reinterpret_cast<const float*>(sin.bytes.data());
      r.table_batch_stride = length * half;
      vlm::rotate(r);
      std::vector<double> want = x.values;
      for (size_t row = 0; row < batch * heads * length; ++row) {
        const size_t table = (row / (heads * length) * length + row % length) * half;
        for (size_t i = 0; i < half; ++i) {
          const size_t one = row * size + (interleaved ? 2 * i : i), two = row * size + (interleaved ? 2 * i + 1 : half + i);
          want[one] = x.values[one] * cos.values[table + i] - x.values[two] * sin.values[table + i];
          want[two] = x.values[two] * cos.values[table + i] + x.values[one] * sin.values[table + i];
        }
      }
      compare(out, want, std::string("rope ") + name(type) + (interleaved ? " interleaved" : ""));
    }
  }
}

// Against its pieces one after another, which the tests above compare with double precision.
void test_project() {
  for (Type type : {Type::f32, Type::f16, Type::bf16}) {
    for (size_t m : {size_t(1), size_t(3), size_t(9)}) {
      for (int bits : {0, 4, 8}) {
        const size_t k = 256, n[2] = {70, bits == 0 ? size_t(70) : size_t(33)};
        const Array x = random_array(type, m * k), weight = random_array(type, k, 0.02f);
        const std::vector<Array> dense = {random_array(type, n[0] * k, 0.06f), random_array(type, n[0] * k, 0.06f)};
        std::vector<Packed> packed;
        if (bits) for (size_t i = 0; i < 2; ++i) packed.emplace_back(n[0], k, bits, 64, Mode::affine, type);
        vlm::Project p;
        std::vector<Array> apart, joint;
        Array rows(type, m * k);
        p.norm.rows = m, p.norm.size = k, p.norm.x = x.bytes.data(), p.norm.x_type = type, p.norm.weight = weight.bytes.data();
        p.norm.weight_type = p.norm.out_type = type, p.norm.eps = 1e-6f;
        vlm::Norm norm = p.norm;
        norm.out = rows.bytes.data();
        vlm::normalize(norm);
        p.count = 2, p.normed = true;
        for (size_t i = 0; i < 2; ++i) {
          apart.emplace_back(type, m * n[0]), joint.emplace_back(type, m * n[0]);
          vlm::Gemm& g = p.parts[i];
          g.m = m, g.n = n[i], g.k = k, g.a = rows.bytes.data(), g.a_type = type, g.a_stride = k, g.c_type = type, g.c_stride = n[i];
          if (bits) g.b = packed[i].matrix;
          else g.b.data = dense[i].bytes.data(), g.b.type = type, g.b.stride = k;
          vlm::Gemm alone = g;
          alone.c = apart[i].bytes.data();
          vlm::multiply(alone);
          g.a = x.bytes.data(), g.c = joint[i].bytes.data();
        }
        const std::string what = std::string("project ") + name(type) + " bits " + std::to_string(bits) + " rows " + std::to_string(m);
        const auto values = [&](const Array& array, size_t count) {
          std::vector<double> all(count);
          for (size_t i = 0; i < count; ++i) all[i] = array.get(i);
          return all;
        };
        vlm::project(p);
        for (size_t i = 0; i < 2; ++i) compare(joint[i], values(apart[i], m * n[i]), what);
        // Gated, of one size.
        vlm::Project gated = p;
        gated.parts[1] = gated.parts[0];
        gated.parts[0].c = gated.parts[1].c = nullptr;
        Array active(type, m * n[0]), want(type, m * n[0]);
        gated.gated = true, gated.out = active.bytes.data(), gated.out_type = type;
        vlm::project(gated);
        vlm::Gated pieces;
        pieces.count = m * n[0], pieces.gate = pieces.up = apart[0].bytes.data(), pieces.gate_type = pieces.up_type = pieces.out_type = type;
        pieces.out = want.bytes.data();
        vlm::gate(pieces);
        compare(active, values(want, m * n[0]), what + " gated");
        // With a residual.
        vlm::Project added = p;
        const Array residual = random_array(type, m * n[0]);
        added.count = 1, added.parts[0].c = nullptr, added.residual = residual.bytes.data(), added.residual_type = type;
        added.out = active.bytes.data(), added.out_type = type;
        vlm::project(added);
        std::vector<double> sums = values(apart[0], m * n[0]);
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += residual.values[i];
        compare(active, sums, what + " residual");
      }
    }
  }
}

void test_roof() {
  std::vector<float> data(1 << 19, 1.0f), sink(64 * 16);
  double work = 0;
  vlm::Roof r;
  r.data = data.data(), r.bytes = data.size() * 4, r.work = &work, r.sink = sink.data();
  vlm::roof(r);
  check(work == double(data.size() * 4) && sink[0] == float(1 << 18), "roof reads every element");
}

void count_blocks(size_t threads) {
  vlm::set_num_threads(int(threads));
  std::vector<int> hits(1000);
  vlm::parallel(hits.size(), [](void* context, size_t block) { ++(*static_cast<std::vector<int>*>(context))[block]; }, &hits);
  for (int hit : hits) check(hit == 1, "every block runs once");
}

void test_pool(bool with_fork) {
  for (size_t threads : {1, 2, 5}) count_blocks(threads);
  vlm::set_num_threads(3);
  std::vector<std::thread> callers;
  std::vector<std::vector<long>> results(4, std::vector<long>(64));
  for (auto& result : results) {
    callers.emplace_back([&result] {
      for (int round = 0; round < 200; ++round) {
        vlm::parallel(result.size(), [](void* context, size_t block) { (*static_cast<std::vector<long>*>(context))[block] += long(block); }, &result);
      }
    });
  }
  for (auto& caller : callers) caller.join();
  for (const auto& result : results) {
    for (size_t i = 0; i < result.size(); ++i) check(result[i] == long(200 * i), "callers at the same time");
  }
#if defined(__SANITIZE_THREAD__)
  with_fork = false;
#endif
  const pid_t child = with_fork ? fork() : -1;
  if (child == 0) {
    const int before = g_failures;
    count_blocks(3);
    _exit(g_failures == before ? 0 : 1);
  }
  if (child > 0) {
    int status = 1;
    waitpid(child, &status, 0);
    check(status == 0, "a forked child has workers of its own");
  }
  count_blocks(2);
}

}  // namespace

int main(int count, char** arguments) {
  test_pool(!(count > 1 && std::strcmp(arguments[1], "no-fork") == 0));
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::neon}) {
    if (!vlm::select_isa(isa)) continue;
    const int before = g_failures;
    test_products();
    test_quantized();
    test_attention();
    test_elementwise();
    test_project();
    test_roof();
    std::printf("%-10s %s\n", vlm::isa_name(isa), g_failures == before ? "ok" : "FAILED");
  }
  std::printf(g_failures ? "%d failures\n" : "all good\n", g_failures);
  return g_failures ? 1 : 0;
}
