#include "ops/elementwise.h"

#include "core/scratch.h"
#include "simd/vec.h"

namespace vlm::VLM_ISA {
namespace {

// Elements in one block of work: less is not worth another thread.
constexpr size_t kBlockElements = 16384;

// gelu(x) by tanh is x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)): without the cancellation of 1 + tanh.
F gelu_tanh(F x) { return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x)); }

F gelu_exact(F x) {
  for (int i = 0; i < W; ++i) x[i] = 0.5f * x[i] * std::erfc(-0.70710678118654752f * x[i]);
  return x;
}

F silu(F x) { return x * sigmoid(x); }

void gate_piece(const Gated& g, size_t first, size_t count) {
  constexpr size_t kPiece = 512;
  alignas(64) float a[kPiece], b[kPiece];
  for (size_t i = first; i < first + count; i += kPiece) {
    const size_t part = smaller(kPiece, first + count - i);
    widen(g.gate_type, at(g.gate_type, g.gate, i), part, a);
    widen(g.up_type, at(g.up_type, g.up, i), part, b);
    for (size_t j = part; j < ceil_div(part, W) * W; ++j) a[j] = b[j] = 0;
    for (size_t j = 0; j < part; j += W) {
      const F x = load(a + j);
      const F y = g.kind == Gate::silu ? silu(x) : g.kind == Gate::gelu_tanh ? gelu_tanh(x) : gelu_exact(x);
      store(a + j, y * load(b + j));
    }
    narrow(g.out_type, a, part, at(g.out_type, g.out, i));
  }
}

void normalize_row(const Norm& n, size_t row, float* wide, const float* weight, const float* bias) {
  widen(n.x_type, at(n.x_type, n.x, row * n.size), n.size, wide);
  const size_t padded = ceil_div(n.size, W) * W;
  float mean = 0;
  if (n.centred) {
    for (size_t i = n.size; i < padded; ++i) wide[i] = 0;
    F total = F{};
    for (size_t i = 0; i < padded; i += W) total += load(wide + i);
    mean = sum(total) / float(n.size);
    for (size_t i = 0; i < padded; i += W) store(wide + i, load(wide + i) - mean);
  }
  for (size_t i = n.size; i < padded; ++i) wide[i] = 0;
  F total = F{}, other = F{};
  size_t i = 0;
  for (; i + 2 * W <= padded; i += 2 * W) {
    total += load(wide + i) * load(wide + i);
    other += load(wide + i + W) * load(wide + i + W);
  }
  for (; i < padded; i += W) total += load(wide + i) * load(wide + i);
  const float factor = 1.0f / std::sqrt(sum(total + other) / float(n.size) + n.eps);
  for (i = 0; i < padded; i += W) {
    F value = load(wide + i) * factor;
    if (weight) value *= load(weight + i);
    if (bias) value += load(bias + i);
    store(wide + i, value);
  }
  narrow(n.out_type, wide, n.size, at(n.out_type, n.out, row * n.size));
}

}  // namespace

void normalize(const Norm& n) {
  if (n.rows == 0 || n.size == 0) return;
  const size_t padded = ceil_div(n.size, 16) * 16;
  float* parameters = scratch_of<float>(kShared, 2 * padded);
  std::memset(parameters, 0, 2 * padded * sizeof(float));
  if (n.weight) widen(n.weight_type, n.weight, n.size, parameters);
  if (n.bias) widen(n.bias_type, n.bias, n.size, parameters + padded);
  const size_t rows_per_block = larger(kBlockElements / n.size, 1);
  for_blocks(ceil_div(n.rows, rows_per_block), [&](size_t block) {
    float* wide = scratch_of<float>(kBlock, padded);
    const size_t end = smaller((block + 1) * rows_per_block, n.rows);
    for (size_t row = block * rows_per_block; row < end; ++row) {
      normalize_row(n, row, wide, n.weight ? parameters : nullptr, n.bias ? parameters + padded : nullptr);
    }
  });
}

void rotate(const Rope& r) {
  const size_t rows = r.batch * r.heads * r.length;
  if (rows == 0 || r.size == 0) return;
  const size_t rows_per_block = larger(kBlockElements / r.size, 1);
  for_blocks(ceil_div(rows, rows_per_block), [&](size_t block) {
    alignas(64) float in[2 * kMaxRopeHalf + 16], out[2 * kMaxRopeHalf + 16];
    const size_t end = smaller((block + 1) * rows_per_block, rows);
    for (size_t row = block * rows_per_block; row < end; ++row) {
      const size_t position = row % r.length, head = row / r.length % r.heads, batch = row / r.length / r.heads;
      const void* from = at(r.type, r.x, batch * r.batch_stride + head * r.head_stride + position * r.row_stride);
      void* to = at(r.type, r.out, row * r.size);
      const float* cos = r.cos + batch * r.table_batch_stride + position * r.half;
      const float* sin = r.sin + batch * r.table_batch_stride + position * r.half;
      widen(r.type, from, 2 * r.half, in);
      if (r.interleaved) {
        for (size_t i = 0; i < r.half; ++i) {
          out[2 * i] = in[2 * i] * cos[i] - in[2 * i + 1] * sin[i];
          out[2 * i + 1] = in[2 * i + 1] * cos[i] + in[2 * i] * sin[i];
        }
      } else {
        const float* second = in + r.half;
        for (size_t i = 0; i < r.half; ++i) {
          out[i] = in[i] * cos[i] - second[i] * sin[i];
          out[r.half + i] = second[i] * cos[i] + in[i] * sin[i];
        }
      }
      narrow(r.type, out, 2 * r.half, to);
      const size_t rest = r.size - 2 * r.half;
      if (rest) std::memcpy(at(r.type, to, 2 * r.half), at(r.type, from, 2 * r.half), rest * size_of(r.type));
    }
  });
}

void gate_here(const Gated& g) { gate_piece(g, 0, g.count); }

void gate(const Gated& g) {
  for_blocks(ceil_div(g.count, kBlockElements), [&](size_t block) {
    const size_t first = block * kBlockElements;
    gate_piece(g, first, smaller(kBlockElements, g.count - first));
  });
}

}  // namespace vlm::VLM_ISA
