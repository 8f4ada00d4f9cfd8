// Drives the library without MLX: every op on every instruction set against double precision, and the pool under contention and fork.
//
// Usage: vlm_native_tests [quick]
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
#include "ops/gemm.h"

namespace {

using vlm::Isa;
using vlm::Matrix;
using vlm::Mode;
using vlm::Type;

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
  return float(_Float16(f));
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
      const _Float16 half = _Float16(f);
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
    _Float16 h;
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

void count_blocks(size_t threads) {
  vlm::set_num_threads(int(threads));
  std::vector<int> hits(1000);
  vlm::parallel(hits.size(), [](void* context, size_t block) { ++(*static_cast<std::vector<int>*>(context))[block]; }, &hits);
  for (int hit : hits) check(hit == 1, "every block runs once");
}

void test_pool() {
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
#if !defined(__SANITIZE_THREAD__)
  const pid_t child = fork();
  if (child == 0) {
    const int before = g_failures;
    count_blocks(3);
    _exit(g_failures == before ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  check(status == 0, "a forked child has workers of its own");
#endif
  count_blocks(2);
}

}  // namespace

int main() {
  test_pool();
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::neon}) {
    if (!vlm::select_isa(isa)) continue;
    const int before = g_failures;
    test_products();
    test_quantized();
    std::printf("%-10s %s\n", vlm::isa_name(isa), g_failures == before ? "ok" : "FAILED");
  }
  std::printf(g_failures ? "%d failures\n" : "all good\n", g_failures);
  return g_failures ? 1 : 0;
}
