#include "core/scratch.h"
#include "ops/project.h"
#include "simd/four_bit.h"
#include "simd/rows.h"

namespace vlm::VLM_ISA {
namespace {

// Bytes of B in one block of work, and blocks that each thread should find.
constexpr size_t kBlockBytes = 128 << 10, kBlocksPerThread = 8;
// Bytes of a row of B up to which two are read at a time.
constexpr size_t kShortRow = 2048;
// Up to so many rows of A, B is better read as it lies than packed.
constexpr int kMaxPlainRows = 4, kMaxPairRows = 8;

template <Type type, int rows, int width>
void dense_rows(const Gemm& g, const Input& in, size_t n0, size_t n1) {
  for (size_t n = n0; n < n1; n += width) {
    const RowsOfB<width> from(n, n1);
    const void* b[width];
    F total[rows][width];
    VLM_UNROLL for (int w = 0; w < width; ++w) {
      b[w] = at(type, g.b.data, from.row[w] * g.b.stride);
      VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] = F{};
    }
    size_t i = 0;
    for (; i + W <= g.k; i += W) {
      F v[width];
      VLM_UNROLL for (int w = 0; w < width; ++w) v[w] = load_as<type>(b[w], i);
      VLM_UNROLL for (int r = 0; r < rows; ++r) {
        const F x = load(in.wide + size_t(r) * in.stride + i);
        VLM_UNROLL for (int w = 0; w < width; ++w) total[r][w] += v[w] * x;
      }
    }
    float more[rows][width] = {};
    for (; i < g.k; ++i) {
      for (int w = 0; w < width; ++w) {
        const float v = load_one(type, b[w], i);
        for (int r = 0; r < rows; ++r) more[r][w] += v * in.wide[size_t(r) * in.stride + i];
      }
    }
    finish_all<rows, width>(g, n, from.valid, total, more);
  }
}

// bytes: 8-bit codes, which need no unpacking.
template <int rows, int width, bool bytes>
void quantized_rows(const Gemm& g, const Input& in, const Spread& spread, size_t n0, size_t n1) {
  const Matrix& b = g.b;
  const size_t group_size = size_t(b.group_size), bits = size_t(b.bits);
  for (size_t n = n0; n < n1; n += width) {
    const RowsOfB<width> from(n, n1);
    const uint8_t* codes[width];
    F total[rows][width];
    float offset[rows][width] = {};
    VLM_UNROLL for (int w = 0; w < width; ++w) {
      codes[w] = static_cast<const uint8_t*>(b.data) + from.row[w] * b.stride;
      VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] = F{};
    }
    for (size_t group = 0; group < b.groups; ++group) {
      F part[rows][width];
      VLM_UNROLL for (int r = 0; r < rows; ++r) {
        VLM_UNROLL for (int w = 0; w < width; ++w) part[r][w] = F{};
      }
      for (size_t i = group * group_size; i < (group + 1) * group_size; i += kChunk) {
        I code[width][kParts];
        VLM_UNROLL for (int w = 0; w < width; ++w) {
          if constexpr (bytes) {
            VLM_UNROLL for (int j = 0; j < kParts; ++j) code[w][j] = load_bytes(codes[w] + i + size_t(j * W));
          } else {
            decode_codes(spread, codes[w] + i * bits / 8, b.end, code[w]);
          }
        }
        VLM_UNROLL for (int j = 0; j < kParts; ++j) {
          F value[width];
          VLM_UNROLL for (int w = 0; w < width; ++w) value[w] = value_of(b.mode, code[w][j]);
          VLM_UNROLL for (int r = 0; r < rows; ++r) {
            const F x = load(in.wide + size_t(r) * in.stride + i + size_t(j * W));
            VLM_UNROLL for (int w = 0; w < width; ++w) part[r][w] += value[w] * x;
          }
        }
      }
      VLM_UNROLL for (int w = 0; w < width; ++w) {
        const size_t index = from.row[w] * b.groups + group;
        const float scale = scale_of(b, index);
        VLM_UNROLL for (int r = 0; r < rows; ++r) total[r][w] += part[r][w] * scale;
        if (b.mode == Mode::affine) {
          const float bias = bias_of(b, index);
          VLM_UNROLL for (int r = 0; r < rows; ++r) offset[r][w] += bias * in.sums[size_t(r) * b.groups + group];
        }
      }
    }
    finish_all<rows, width>(g, n, from.valid, total, offset);
  }
}

#if defined(__AVX512BF16__)
// One row of B after another, as it lies in memory; `chains` sums at a time hide the latency of an addition.
template <int rows, int chains>
void dense_pairs_rows(const Gemm& g, size_t n0, size_t n1) {
  const uint16_t *a = static_cast<const uint16_t*>(g.a), *weights = static_cast<const uint16_t*>(g.b.data);
  const size_t whole = g.k / 32 * 32;
  // The last, partial vector is loaded under a mask.
  const __mmask32 rest = __mmask32((uint64_t(1) << (g.k - whole)) - 1);
  for (size_t n = n0; n < n1; ++n) {
    const uint16_t* b = weights + n * g.b.stride;
    F total[rows][chains];
    VLM_UNROLL for (int r = 0; r < rows; ++r) {
      VLM_UNROLL for (int c = 0; c < chains; ++c) total[r][c] = F{};
    }
    size_t i = 0;
    for (; i + 32 * chains <= whole; i += 32 * chains) {
      VLM_UNROLL for (int c = 0; c < chains; ++c) {
        _mm_prefetch(reinterpret_cast<const char*>(b + i + 32 * c) + kAhead, _MM_HINT_T0);
        const __m512bh v = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + i + 32 * c));
        VLM_UNROLL for (int r = 0; r < rows; ++r) {
          total[r][c] = dot(total[r][c], v, reinterpret_cast<__m512bh>(_mm512_loadu_si512(a + size_t(r) * g.a_stride + i + 32 * c)));
        }
      }
    }
    for (; i < g.k; i += 32) {
      const __mmask32 mask = i < whole ? ~__mmask32(0) : rest;
      const __m512bh v = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, b + i));
      VLM_UNROLL for (int r = 0; r < rows; ++r) {
        total[r][0] = dot(total[r][0], v, reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, a + size_t(r) * g.a_stride + i)));
      }
    }
    VLM_UNROLL for (int r = 0; r < rows; ++r) {
      VLM_UNROLL for (int c = 1; c < chains; ++c) total[r][0] += total[r][c];
      finish(g, size_t(r), n, sum(total[r][0]));
    }
  }
}

#endif

// Which of the loops above serves a product.
enum class Way { dense, quantized, dense_pairs, quantized4 };

Way way_of(const Gemm& g) {
#if defined(__AVX512BF16__)
  if (g.a_type == Type::bf16 && !g.b.quantized && g.b.type == Type::bf16) return Way::dense_pairs;
  const bool bf16 = g.b.mode == Mode::affine ? g.b.type == Type::bf16 : true;
  if (g.b.quantized && g.b.bits == 4 && g.a_type == Type::bf16 && bf16 && g.k % kSpan == 0) return Way::quantized4;
#endif
  return g.b.quantized ? Way::quantized : Way::dense;
}

Input prepare(const Gemm& g, Way way) {
  Input in;
  if (way == Way::dense_pairs) return in;
  in.stride = ceil_div(g.k, 64) * 64;
  const size_t sums = g.b.quantized && g.b.mode == Mode::affine ? g.m * g.b.groups : 0;
  float* wide = scratch_of<float>(g.alone ? kBlock : kShared, g.m * in.stride + sums);
  for (size_t r = 0; r < g.m; ++r) widen(g.a_type, at(g.a_type, g.a, r * g.a_stride), g.k, wide + r * in.stride);
  in.wide = wide;
  if (sums) {
    float* to = wide + g.m * in.stride;
    for (size_t r = 0; r < g.m; ++r) {
      for (size_t group = 0; group < g.b.groups; ++group) {
        const float* from = wide + r * in.stride + group * size_t(g.b.group_size);
        F total = F{};
        for (int i = 0; i < g.b.group_size; i += W) total += load(from + i);
        to[r * g.b.groups + group] = sum(total);
      }
    }
    in.sums = to;
  }
#if defined(__AVX512BF16__)
  if (way == Way::quantized4) {
    uint16_t* to = scratch_of<uint16_t>(g.alone ? kBlock2 : kShared2, g.m * in.stride);
    for (size_t r = 0; r < g.m; ++r) order_for_codes(static_cast<const uint16_t*>(g.a) + r * g.a_stride, g.k, to + r * in.stride);
    in.pairs = to;
  }
#endif
  return in;
}

// Rows of B at a time: enough sums to hide the latency of an addition, few enough for the registers.
constexpr int width_for(int rows, int registers) {
  return rows * 4 <= registers ? 4 : rows * 2 <= registers ? 2 : 1;
}
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 16;
#else
constexpr int kSums = 8;
#endif

template <int rows>
void block_of_rows(const Gemm& g, const Input& in, Way way, const Spread& spread, size_t n0, size_t n1) {
  constexpr int width = width_for(rows, kSums);
#if defined(__AVX512BF16__)
  if (way == Way::dense_pairs) return dense_pairs_rows<rows, width>(g, n0, n1);
  if (way == Way::quantized4) {
    // Two short rows share what is loaded of A.
    constexpr int pair = rows <= 4 ? 2 : 1;
    const bool is_long = g.b.stride > kShortRow, affine = g.b.mode == Mode::affine;
    if (is_long) return affine ? quantized4_rows<rows, 1, true>(g, in, n0, n1) : quantized4_rows<rows, 1, false>(g, in, n0, n1);
    return affine ? quantized4_rows<rows, pair, true>(g, in, n0, n1) : quantized4_rows<rows, pair, false>(g, in, n0, n1);
  }
#endif
  if constexpr (rows <= kMaxPlainRows) {
    if (way == Way::quantized) {
      if (g.b.bits == 8) return quantized_rows<rows, 1, true>(g, in, spread, n0, n1);
      return quantized_rows<rows, 1, false>(g, in, spread, n0, n1);
    }
    switch (g.b.type) {
      case Type::f32: return dense_rows<Type::f32, rows, width>(g, in, n0, n1);
      case Type::f16: return dense_rows<Type::f16, rows, width>(g, in, n0, n1);
      case Type::bf16: return dense_rows<Type::bf16, rows, width>(g, in, n0, n1);
    }
  }
}

// What the blocks of a product share.
struct Plan {
  Way way;
  Input in;
  Spread spread;
};

Plan plan_of(const Gemm& g, Way way) { return {way, prepare(g, way), make_spread(g.b.quantized ? g.b.bits : 8)}; }

void rows_of_b(const Gemm& g, const Plan& p, size_t n0, size_t n1) {
  switch (g.m) {
    case 1: return block_of_rows<1>(g, p.in, p.way, p.spread, n0, n1);
    case 2: return block_of_rows<2>(g, p.in, p.way, p.spread, n0, n1);
    case 3: return block_of_rows<3>(g, p.in, p.way, p.spread, n0, n1);
    case 4: return block_of_rows<4>(g, p.in, p.way, p.spread, n0, n1);
    case 5: return block_of_rows<5>(g, p.in, p.way, p.spread, n0, n1);
    case 6: return block_of_rows<6>(g, p.in, p.way, p.spread, n0, n1);
    case 7: return block_of_rows<7>(g, p.in, p.way, p.spread, n0, n1);
    default: return block_of_rows<8>(g, p.in, p.way, p.spread, n0, n1);
  }
}

bool reads_in_place(const Gemm& g, Way way) {
  const size_t most = way == Way::dense_pairs || way == Way::quantized4 ? kMaxPairRows : kMaxPlainRows;
  return g.transposed && g.m <= most;
}

// Rows of B in one block of work: a stretch of memory long enough to be read at full speed, and some blocks for every thread.
size_t rows_per_block(const Gemm& g, size_t all_rows) {
  const size_t row_bytes = g.b.quantized ? g.b.stride : g.k * size_of(g.b.type);
  const size_t most = larger(kBlockBytes / larger(row_bytes, 1), 1), fair = all_rows / (kBlocksPerThread * size_t(num_threads()));
  return larger(smaller(most, fair) / 4 * 4, 4);
}

void gemv(const Gemm& g, Way way) {
  const Plan plan = plan_of(g, way);
  const size_t block = rows_per_block(g, g.n), blocks = ceil_div(g.n, block);
  const auto body = [&](size_t index) { rows_of_b(g, plan, index * block, smaller((index + 1) * block, g.n)); };
  if (g.alone) {
    for (size_t i = 0; i < blocks; ++i) body(i);
  } else {
    for_blocks(blocks, body);
  }
}

// Whether one preparation of A serves both products.
bool alike(const Gemm& a, const Gemm& b) {
  const bool same = a.b.quantized == b.b.quantized && a.b.type == b.b.type;
  return same && (!a.b.quantized || (a.b.bits == b.b.bits && a.b.group_size == b.b.group_size && a.b.mode == b.b.mode));
}

// What follows the products, for columns [n0, n1) of every row.
void finish_columns(const Project& p, const Gemm* parts, size_t n0, size_t n1) {
  const Gemm& first = parts[0];
  for (size_t r = 0; r < first.m; ++r) {
    const size_t from = r * first.n + n0;
    if (p.gated) {
      Gated g;
      g.count = n1 - n0, g.kind = p.kind;
      g.gate = at(first.c_type, static_cast<const void*>(first.c), from), g.gate_type = first.c_type;
      g.up = at(parts[1].c_type, static_cast<const void*>(parts[1].c), from), g.up_type = parts[1].c_type;
      g.out = at(p.out_type, p.out, from), g.out_type = p.out_type;
      VLM_ISA::gate_here(g);
    } else if (p.residual) {
      constexpr size_t kPiece = 256;
      alignas(64) float sums[kPiece], added[kPiece];
      for (size_t i = n0; i < n1; i += kPiece) {
        const size_t count = smaller(kPiece, n1 - i), piece = r * first.n + i;
        widen(first.c_type, at(first.c_type, static_cast<const void*>(first.c), piece), count, sums);
        widen(p.residual_type, at(p.residual_type, p.residual, piece), count, added);
        for (size_t j = 0; j < count; ++j) sums[j] += added[j];
        narrow(p.out_type, sums, count, at(p.out_type, p.out, piece));
      }
    }
  }
}

}  // namespace

void multiply(const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const Way way = way_of(g);
  if (reads_in_place(g, way)) gemv(g, way);
  else VLM_ISA::gemm(g);
}

void project(const Project& p) {
  Gemm parts[kMaxParts];
  const Gemm& first = p.parts[0];
  if (first.m == 0) return;
  // Results that only the following step reads, and the normalized rows.
  size_t bytes[kMaxParts + 1] = {}, all = 0;
  for (size_t i = 0; i < p.count; ++i) {
    parts[i] = p.parts[i];
    if (!parts[i].c) bytes[i] = ceil_div(parts[i].m * parts[i].n * size_of(parts[i].c_type), 64) * 64;
    all += bytes[i];
  }
  if (p.normed) bytes[p.count] = first.m * first.k * size_of(p.norm.out_type);
  char* inside = scratch_of<char>(kShared3, all + bytes[p.count] + 64);
  if (p.normed) {
    Norm norm = p.norm;
    norm.out = inside + all;
    VLM_ISA::normalize(norm);
    for (size_t i = 0; i < p.count; ++i) parts[i].a = norm.out, parts[i].a_type = norm.out_type;
  }
  bool together = true;
  size_t rows = 0;
  for (size_t i = 0; i < p.count; ++i) {
    if (!parts[i].c) parts[i].c = inside;
    inside += bytes[i];
    together = together && alike(parts[0], parts[i]) && reads_in_place(parts[i], way_of(parts[i]));
    rows += parts[i].n;
  }
  if (!together) {
    for (size_t i = 0; i < p.count; ++i) VLM_ISA::multiply(parts[i]);
    if (p.gated || p.residual) for_blocks(ceil_div(first.n, 1024), [&](size_t i) { finish_columns(p, parts, i * 1024, smaller((i + 1) * 1024, first.n)); });
    return;
  }
  const Plan plan = plan_of(parts[0], way_of(parts[0]));
  const size_t block = rows_per_block(parts[0], rows);
  if (p.gated || p.residual) {
    for_blocks(ceil_div(first.n, block), [&](size_t i) {
      const size_t n0 = i * block, n1 = smaller(n0 + block, first.n);
      for (size_t part = 0; part < p.count; ++part) rows_of_b(parts[part], plan, n0, n1);
      finish_columns(p, parts, n0, n1);
    });
    return;
  }
  size_t ends[kMaxParts], blocks = 0;
  for (size_t i = 0; i < p.count; ++i) ends[i] = blocks += ceil_div(parts[i].n, block);
  for_blocks(blocks, [&](size_t index) {
    size_t part = 0;
    while (index >= ends[part]) ++part;
    const size_t n0 = (index - (part ? ends[part - 1] : 0)) * block;
    rows_of_b(parts[part], plan, n0, smaller(n0 + block, parts[part].n));
  });
}

}  // namespace vlm::VLM_ISA
