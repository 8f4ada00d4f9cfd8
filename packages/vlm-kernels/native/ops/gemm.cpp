#include "ops/gemm.h"

#include "core/scratch.h"
#include "simd/panel.h"

namespace vlm::VLM_ISA {
namespace {

// Rows of A packed at a time: bounds the memory of a long prefill.
constexpr size_t kMaxRowsPacked = 1536;
// Elements of the inner dimension in one pass; longer ones add up in a float buffer.
constexpr size_t kMaxInner = 4096;
// Bytes of B that one block packs: what the second-level cache holds besides a strip of A.
constexpr size_t kPackedBytes = 320 << 10;

void store_tile(const Gemm& g, const float* tile, size_t stride, size_t row0, int rows, size_t col0, int columns) {
  alignas(64) float line[kColumns];
  for (int r = 0; r < rows; ++r) {
    const float* from = tile + size_t(r) * stride;
    if (g.bias) {
      widen(g.bias_type, at(g.bias_type, g.bias, col0), size_t(columns), line);
      for (int c = 0; c < columns; ++c) line[c] += from[c];
      from = line;
    }
    narrow(g.c_type, from, size_t(columns), at(g.c_type, g.c, (row0 + size_t(r)) * g.c_stride + col0));
  }
}

template <class Element>
void run(const Gemm& g) {
  const Spread spread = make_spread(g.b.quantized ? g.b.bits : 8);
  const size_t k_pass = smaller(g.k, kMaxInner);
  const size_t steps_pass = steps_of<Element>(k_pass), step_size = kPerStep<Element>;
  size_t block = kPackedBytes / (steps_pass * step_size * sizeof(Element)) / kColumns * kColumns;
  block = smaller(larger(block, kColumns), 256);
  const size_t threads = g.alone ? 1 : size_t(num_threads());
  while (block > kColumns && ceil_div(g.n, block) < 4 * threads) block -= kColumns;
  if (!g.transposed) block = ceil_div(block, 16) * 16;  // rows of codes are decoded 16 at a time
  const size_t blocks = ceil_div(g.n, block);

  for (size_t m0 = 0; m0 < g.m; m0 += kMaxRowsPacked) {
    const size_t rows = smaller(kMaxRowsPacked, g.m - m0);
    const Strips strips(rows);
    const size_t strip_size = strips.height * steps_of<Element>(g.k) * step_size;
    Element* packed_a = scratch_of<Element>(g.alone ? kBlock3 : kShared, strips.count * strip_size + 16);
    // Each pass over the inner dimension has strips of its own: [pass][strip].
    const size_t passes = larger(ceil_div(g.k, kMaxInner), 1);
    const auto strip_of = [&](size_t pass, size_t strip) {
      return packed_a + (pass * steps_pass * strips.count * strips.height + strip * strips.height * steps_of<Element>(smaller(kMaxInner, g.k - pass * kMaxInner))) * step_size;
    };
    const auto pack = [&](size_t index) {
      const size_t pass = index / strips.count, strip = index % strips.count, k0 = pass * kMaxInner;
      pack_strip<Element>(
          g.a_type, [&](int r) { return at(g.a_type, g.a, (m0 + strips.first(strip) + size_t(r)) * g.a_stride + k0); },
          strips.size(strip), smaller(kMaxInner, g.k - k0), strip_of(pass, strip));
    };
    // Few rows leave B to be packed at the cost of the whole product, so columns alone are shared out; many rows and few columns are
    // shared out both ways.
    size_t splits = 1;
    while (splits < strips.count && blocks * splits < 2 * threads) ++splits;
    const size_t strips_per_split = ceil_div(strips.count, splits);

    const auto compute = [&](size_t index) {
      const size_t n0 = index / splits * block, columns = smaller(block, g.n - n0);
      const size_t first = index % splits * strips_per_split, last = smaller(first + strips_per_split, strips.count);
      if (first >= last) return;
      const size_t panels = ceil_div(columns, kColumns), panel_size = steps_pass * kColumns * step_size;
      Element* packed_b = scratch_of<Element>(kBlock, panels * panel_size + 16);
      const size_t sums_stride = panels * kColumns;
      float* sums = passes > 1 ? scratch_of<float>(kBlock2, strips.height * (last - first) * sums_stride) : nullptr;
      alignas(64) float tile[kRows * kColumns];
      for (size_t pass = 0; pass < passes; ++pass) {
        const size_t k0 = pass * kMaxInner, k = smaller(kMaxInner, g.k - k0), steps = steps_of<Element>(k);
        const size_t this_panel = steps * kColumns * step_size;
        if (g.transposed) {
          for (size_t p = 0; p < panels; ++p) {
            pack_panel_rows(g.b, spread, n0 + p * kColumns, int(smaller(kColumns, columns - p * kColumns)), k0, k, packed_b + p * this_panel);
          }
        } else {
          Element* rows_of_b = scratch_of<Element>(kBlock4, 2 * panels * kColumns + 16);
          pack_panels_columns(g.b, spread, n0, columns, k0, k, packed_b, rows_of_b);
        }
        for (size_t strip = first; strip < last; ++strip) {
          const int height = strips.size(strip);
          const Product multiply = product_for<Element>(height);
          const int32_t* a = reinterpret_cast<const int32_t*>(strip_of(pass, strip));
          for (size_t p = 0; p < panels; ++p) {
            const float* b = reinterpret_cast<const float*>(packed_b + p * this_panel);
            if (passes > 1) {
              multiply(a, b, steps, sums + (strip - first) * strips.height * sums_stride + p * kColumns, sums_stride, pass > 0);
              continue;
            }
            multiply(a, b, steps, tile, kColumns, false);
            store_tile(g, tile, kColumns, m0 + strips.first(strip), height, n0 + p * kColumns, int(smaller(kColumns, columns - p * kColumns)));
          }
        }
      }
      if (passes > 1) {
        for (size_t strip = first; strip < last; ++strip) {
          for (size_t p = 0; p < panels; ++p) {
            store_tile(g, sums + (strip - first) * strips.height * sums_stride + p * kColumns, sums_stride, m0 + strips.first(strip),
                       strips.size(strip), n0 + p * kColumns, int(smaller(kColumns, columns - p * kColumns)));
          }
        }
      }
    };
    if (g.alone) {
      for (size_t i = 0; i < strips.count * passes; ++i) pack(i);
      for (size_t i = 0; i < blocks * splits; ++i) compute(i);
    } else {
      for_blocks(strips.count * passes, pack);
      for_blocks(blocks * splits, compute);
    }
  }
}

}  // namespace

void gemm(const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const bool half_b = g.b.quantized && g.b.mode != Mode::affine ? true : g.b.type == Type::bf16;
  if (kPairs && g.a_type == Type::bf16 && half_b) run<uint16_t>(g);
  else run<float>(g);
}

}  // namespace vlm::VLM_ISA
