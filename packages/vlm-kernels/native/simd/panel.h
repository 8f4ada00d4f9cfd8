// Panels: factors laid out as the inner loop of a product reads them, and that inner loop.
//
// A step is one element of the inner dimension (float panels) or two (bf16 panels, where the instruction set multiplies pairs).
//   strip of A:  [step][row][1 or 2]     rows: up to kRows
//   panel of B:  [step][column][1 or 2]  columns: kColumns
// Both are sequences of 32-bit lanes, so most code below serves either.
#pragma once

#include "simd/decode.h"

namespace vlm::VLM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 12, kVectors = 2;
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kRows = 4, kVectors = 2;
#endif
constexpr int kColumns = kVectors * W;

#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

// Element is float or uint16_t (bf16). Steps that k elements of the inner dimension take:
template <class Element>
constexpr size_t kPerStep = sizeof(Element) == 4 ? 1 : 2;

template <class Element>
VLM_INLINE size_t steps_of(size_t k) {
  return ceil_div(k, kPerStep<Element>);
}

template <class Element>
VLM_INLINE F multiply_add(F total, int32_t lane, F b) {
  if constexpr (sizeof(Element) == 4) {
    return total + float_of(I{} + lane) * b;
  } else {
#if defined(__AVX512BF16__)
    return reinterpret_cast<F>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(total), reinterpret_cast<__m512bh>(_mm512_set1_epi32(lane)),
                                                reinterpret_cast<__m512bh>(b)));
#else
    return total;
#endif
  }
}

// c[rows][kColumns] (row stride `stride`) = or += strip * panel.
template <class Element, int rows>
void product(const int32_t* a, const float* b, size_t steps, float* c, size_t stride, bool accumulate) {
  F total[rows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) total[r][v] = F{};
  }
  for (size_t s = 0; s < steps; ++s, a += rows, b += kColumns) {
    F column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) total[r][v] = multiply_add<Element>(total[r][v], a[r], column[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + size_t(r) * stride + v * W;
      store(to, accumulate ? load(to) + total[r][v] : total[r][v]);
    }
  }
}

using Product = void (*)(const int32_t*, const float*, size_t, float*, size_t, bool);

template <class Element>
Product product_for(int rows) {
#define VLM_ROWS(n) \
  if constexpr (n <= kRows) { if (rows == n) return product<Element, n>; }
  VLM_ROWS(1) VLM_ROWS(2) VLM_ROWS(3) VLM_ROWS(4) VLM_ROWS(5) VLM_ROWS(6)
  VLM_ROWS(7) VLM_ROWS(8) VLM_ROWS(9) VLM_ROWS(10) VLM_ROWS(11) VLM_ROWS(12)
#undef VLM_ROWS
  return nullptr;
}

// Rows are shared out evenly, so that no strip is much thinner than the others.
struct Strips {
  size_t rows, count, height;
  explicit Strips(size_t rows) : rows(rows), count(larger(ceil_div(rows, kRows), 1)), height(larger(ceil_div(rows, count), 1)) {
    count = larger(ceil_div(rows, height), 1);
  }
  size_t first(size_t strip) const { return strip * height; }
  int size(size_t strip) const { return int(smaller(height, rows - strip * height)); }
};

// W rows of W lanes, turned in place: v[j][i] becomes v[i][j].
VLM_INLINE void turn(F v[W]) {
#if defined(__AVX512F__)
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = reinterpret_cast<__m512i>(v[i]);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4g + c] holds, in each 128-bit lane q, column 4q + c of rows 4g .. 4g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), high = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i low2 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd), high2 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    v[c] = reinterpret_cast<F>(_mm512_shuffle_i32x4(low, high, 0x88));
    v[c + 8] = reinterpret_cast<F>(_mm512_shuffle_i32x4(low, high, 0xdd));
    v[c + 4] = reinterpret_cast<F>(_mm512_shuffle_i32x4(low2, high2, 0x88));
    v[c + 12] = reinterpret_cast<F>(_mm512_shuffle_i32x4(low2, high2, 0xdd));
  }
#else
  alignas(64) float turned[W * W];
  for (int i = 0; i < W; ++i) {
    for (int j = 0; j < W; ++j) turned[j * W + i] = v[i][j];
  }
  for (int i = 0; i < W; ++i) v[i] = load(turned + i * W);
#endif
}

// Rows of k elements to one strip. `row(i)` gives the address of row i, whose elements have type `type`.
template <class Element, class Row>
void pack_strip(Type type, const Row& row, int rows, size_t k, Element* out) {
  constexpr size_t kPiece = 256;
  alignas(64) float wide[kPiece];
  alignas(64) Element pieces[kRows][kPiece];
  int32_t* to = reinterpret_cast<int32_t*>(out);
  for (size_t first = 0; first < k; first += kPiece) {
    const size_t count = smaller(kPiece, k - first), size = steps_of<Element>(count), begin = first / kPerStep<Element>;
    const char* lanes[kRows];
    for (int r = 0; r < rows; ++r) {
      const void* from = at(type, row(r), first);
      if (sizeof(Element) == 4 ? type == Type::f32 : type == Type::bf16 && count % 2 == 0) {
        lanes[r] = static_cast<const char*>(from);
        continue;
      }
      lanes[r] = reinterpret_cast<const char*>(pieces[r]);
      if constexpr (sizeof(Element) == 4) {
        widen(type, from, count, pieces[r]);
      } else {
        if (type == Type::f32) {
          narrow(Type::bf16, static_cast<const float*>(from), count, pieces[r]);
        } else {
          widen(type, from, count, wide);
          narrow(Type::bf16, wide, count, pieces[r]);
        }
        if (count % 2) pieces[r][count] = 0;
      }
    }
    size_t s = 0;
#if defined(__AVX512F__)
    const __mmask16 mask = __mmask16((1u << rows) - 1);
    for (; s + W <= size; s += W) {
      F v[W];
      for (int r = 0; r < W; ++r) v[r] = r < rows ? load(reinterpret_cast<const float*>(lanes[r] + 4 * s)) : F{};
      turn(v);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) _mm512_mask_storeu_ps(to + (begin + s + size_t(i)) * size_t(rows), mask, reinterpret_cast<__m512>(v[i]));
    }
#endif
    for (; s < size; ++s) {
      for (int r = 0; r < rows; ++r) std::memcpy(to + (begin + s) * size_t(rows) + r, lanes[r] + 4 * s, 4);
    }
  }
}

// One panel from rows of B that run along the inner dimension (B is [n, k]): columns [n0, n0 + columns), elements [k0, k0 + k).
// Columns beyond `columns` become zero.
template <class Element>
void pack_panel_rows(const Matrix& b, const Spread& spread, size_t n0, int columns, size_t k0, size_t k, Element* out) {
  constexpr size_t kPiece = 256;
  // A little longer than a piece: the last step of an odd count reads one element more.
  alignas(64) Element piece[W][kPiece + 16];
  const bool direct = !b.quantized && (sizeof(Element) == 4 ? b.type == Type::f32 : b.type == Type::bf16);
  float* panel = reinterpret_cast<float*>(out);
  for (int v = 0; v < kVectors; ++v) {
    const int left = columns - v * W, valid = left < 0 ? 0 : left < W ? left : W;
    for (size_t first = 0; first < k; first += kPiece) {
      const size_t count = smaller(kPiece, k - first);
      const size_t begin = first / kPerStep<Element>, size = steps_of<Element>(count);
      const Element* rows[W];
      for (int i = 0; i < W; ++i) {
        const size_t row = n0 + size_t(v * W + i);
        if (i >= valid) {
          std::memset(piece[i], 0, sizeof piece[i]);
          rows[i] = piece[i];
        } else if (direct && count % kPerStep<Element> == 0) {
          rows[i] = static_cast<const Element*>(at(b.type, b.data, row * b.stride + k0 + first));
        } else {
          fetch(b, spread, row, k0 + first, count, piece[i]);
          piece[i][count] = 0;
          rows[i] = piece[i];
        }
      }
      size_t s = 0;
      for (; s + W <= size; s += W) {
        F in[W];
        for (int i = 0; i < W; ++i) in[i] = load(reinterpret_cast<const float*>(rows[i]) + s);
        turn(in);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store(panel + (begin + s + size_t(i)) * kColumns + size_t(v * W), in[i]);
      }
      for (; s < size; ++s) {
        for (int i = 0; i < W; ++i) {
          std::memcpy(panel + (begin + s) * kColumns + size_t(v * W + i), reinterpret_cast<const char*>(rows[i]) + s * 4, 4);
        }
      }
    }
  }
}

// to[2j], to[2j + 1] = low[j], high[j] for the columns of a panel.
VLM_INLINE void interleave(const uint16_t* low, const uint16_t* high, uint16_t* to) {
#if defined(__AVX512BF16__)
  const __m512i a = _mm512_loadu_si512(low), b = _mm512_loadu_si512(high);
  const __m512i even = _mm512_unpacklo_epi16(a, b), odd = _mm512_unpackhi_epi16(a, b);
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi64(even, first, odd));
  _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi64(even, second, odd));
#else
  for (int j = 0; j < kColumns; ++j) {
    to[2 * j] = low[j];
    to[2 * j + 1] = high[j];
  }
#endif
}

// Panels from rows of B that run along the columns (B is [k, n]): columns [n0, n0 + columns) in consecutive panels. `buffer` holds two
// rows of padded columns.
template <class Element>
void pack_panels_columns(const Matrix& b, const Spread& spread, size_t n0, size_t columns, size_t k0, size_t k, Element* out, Element* buffer) {
  const size_t steps = steps_of<Element>(k), panels = ceil_div(columns, kColumns), padded = panels * kColumns;
  const size_t panel_size = steps * kColumns * kPerStep<Element>;
  const bool direct = !b.quantized && columns == padded && (sizeof(Element) == 4 ? b.type == Type::f32 : b.type == Type::bf16);
  for (size_t s = 0; s < steps; ++s) {
    const Element* rows[2] = {nullptr, nullptr};
    for (size_t half = 0; half < kPerStep<Element>; ++half) {
      Element* row = buffer + half * padded;
      const size_t kk = s * kPerStep<Element> + half;
      if (kk < k && direct) {
        rows[half] = static_cast<const Element*>(at(b.type, b.data, (k0 + kk) * b.stride + n0));
        continue;
      }
      rows[half] = row;
      if (kk < k) {
        fetch(b, spread, k0 + kk, n0, columns, row);
        for (size_t j = columns; j < padded; ++j) row[j] = 0;
      } else {
        std::memset(row, 0, padded * sizeof(Element));
      }
    }
    for (size_t p = 0; p < panels; ++p) {
      Element* to = out + p * panel_size + s * kColumns * kPerStep<Element>;
      if constexpr (sizeof(Element) == 4) {
        for (int v = 0; v < kVectors; ++v) store(to + v * W, load(rows[0] + p * kColumns + v * W));
      } else {
        interleave(rows[0] + p * kColumns, rows[1] + p * kColumns, to);
      }
    }
  }
}

}  // namespace
}  // namespace vlm::VLM_ISA
