// Split-K attention of a few query rows over packed keys and values, on the tensor cores.
//
// One block: 4 or 8 query rows of one key-value head (heads of its group x queries), one range of keys. Each warp takes 16 keys
// at a time through two products with the query rows as N, two columns a row:
//
//   scores[key, row]   = K[key, dim] . q[dim, row]      m16n8k32, int8: q is rounded to 15 bits of its row's largest
//                                                       coordinate; one column holds the upper 8 bits, the next one the rest
//   result[dim, row] += V[dim, key] . p[key, row]       m16n8k16, bfloat16: one column holds the upper 8 mantissa bits of p,
//                                                       the next one the rest, so that the operands carry 16 bits
//
// The order of the summed index is free, so each lane multiplies the codes it has loaded: in the first product a quarter of
// the coordinates of two keys, in the second an eighth of the coordinates of four keys. Only p is shuffled.
//
// A centroid is an integer level in -63..63. Its byte 0x80 | (level + 64) comes from a register table by byte permutation. As int8
// it is level - 64, and the 64 is taken out of the scores by the starting value of the accumulator. Under the upper byte
// 0x43 it is the bfloat16 number 256 + 2 (level + 64) = 384 + 2 level, and the 384 is taken out of V by a subtraction that is exact.

#ifndef TURBOQUANT_DECODE_CU
#define TURBOQUANT_DECODE_CU

#ifdef __EMULATED__
#define turboquant_mma emulate_mma_m16n8k16
#define turboquant_mma_bytes emulate_mma_m16n8k32
#define turboquant_permute emulate_prmt
__device__ __forceinline__ uint turboquant_less_384(uint pair) {
  float low = __uint_as_float(pair << 16) - 384.0f, high = __uint_as_float(pair & 0xffff0000u) - 384.0f;
  return (__float_as_uint(high) & 0xffff0000u) | (__float_as_uint(low) >> 16);
}
__device__ __forceinline__ uint turboquant_pair(float low, float high) {
  return uint(__nv_bfloat16(high).bits) << 16 | __nv_bfloat16(low).bits;
}
#else
__device__ __forceinline__ void turboquant_mma(float (&c)[4], const uint (&a)[4], const uint (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void turboquant_mma_bytes(int (&c)[4], const uint (&a)[4], const uint (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The intrinsic __byte_perm clears the top bits of the selector, which the lookup needs.
__device__ __forceinline__ uint turboquant_permute(uint x, uint y, uint selector) {
  uint result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(selector));
  return result;
}
__device__ __forceinline__ uint turboquant_less_384(uint pair) {
  uint result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(pair), "r"(0x3f803f80u), "r"(0xc3c0c3c0u));
  return result;
}
__device__ __forceinline__ uint turboquant_pair(float low, float high) {
  uint result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
#endif

constexpr uint kTurboquantLanes = 0xffffffffu;
constexpr float kTurboquantLowest = -1e30f;
constexpr int kTurboquantWarps = 4;

// A number as two bfloat16: the nearest one (upper half of the word), and what it leaves.
__device__ __forceinline__ uint turboquant_halves(float x) {
  const float rest = x - __uint_as_float(turboquant_pair(0.0f, x) & 0xffff0000u);
  return turboquant_pair(rest, x);
}

// Four codes (the lower or the upper four nibbles of `codes`) to four bytes.
template <int BITS>
__device__ __forceinline__ uint turboquant_lookup(uint codes, const uint (&table)[4], bool upper) {
  if (BITS == 4) {
    // A selector with its top bit set gives the sign of a byte eight times: 0xff, since every entry has its top bit set.
    const uint flipped = codes ^ 0x88888888u;
    return turboquant_permute(table[0], table[1], upper ? codes >> 16 : codes) &
           turboquant_permute(table[2], table[3], upper ? flipped >> 16 : flipped);
  }
  return turboquant_permute(table[0], table[1], upper ? codes >> 16 : codes);
}

struct TurboquantRow {
  const uint* full;
  const uint* half;
  const uint* quarter;
};

// The words that hold OCTETS octets of one packed vector, from octet `first` (a multiple of OCTETS) on.
template <int BITS, int D, int OCTETS>
struct TurboquantCodes {
  static constexpr int kHalf = OCTETS > 2 ? OCTETS / 2 : 1, kQuarter = OCTETS > 4 ? OCTETS / 4 : 1;
  static constexpr int kWords = (D * BITS + 31) / 32;
  uint full[OCTETS], half[kHalf], quarter[kQuarter];

  // `row` points at the first octet wanted of each field of some row.
  __device__ __forceinline__ void load(const TurboquantRow& row, int words) {
    if (BITS == 4) {
#pragma unroll
      for (int i = 0; i < OCTETS; i += OCTETS > 3 ? 4 : OCTETS)
        copy<(OCTETS > 3 ? 4 : OCTETS)>(full + i, row.full + words + i);
    }
    if (BITS < 4 && (BITS & 2)) {
#pragma unroll
      for (int i = 0; i < kHalf; i += kHalf > 3 ? 4 : kHalf) copy<(kHalf > 3 ? 4 : kHalf)>(half + i, row.half + words + i);
    }
    if (BITS & 1) {
#pragma unroll
      for (int i = 0; i < kQuarter; i += kQuarter > 3 ? 4 : kQuarter)
        copy<(kQuarter > 3 ? 4 : kQuarter)>(quarter + i, row.quarter + words + i);
    }
  }

  __device__ __forceinline__ static TurboquantRow row(const uint* codes, int first) {
    return {codes + first, codes + (first >> 1), codes + (BITS & 2 ? D / 16 : 0) + (first >> 2)};
  }

  // Octet i in eight nibbles.
  __device__ __forceinline__ uint octet(int i, int first) const {
    if (BITS == 4) return full[i];
    uint codes = 0;
    if (BITS & 2) codes = half[i >> 1] >> (2 * (OCTETS == 1 ? first & 1 : i & 1)) & 0x33333333u;
    if (BITS == 1) codes = quarter[i >> 2] >> ((i & 3) + (OCTETS < 4 ? first & 3 : 0)) & 0x11111111u;
    if (BITS == 3) {
      // The bit goes straight to its place in the nibble: bit 2.
      if (OCTETS < 4) {
        codes |= (quarter[0] >> (i + (first & 3)) & 0x11111111u) << 2;
      } else {
        uint word = quarter[i >> 2];
        codes |= ((i & 3) == 0 ? word << 2 : (i & 3) == 1 ? word << 1 : (i & 3) == 2 ? word : word >> 1) & 0x44444444u;
      }
    }
    return codes;
  }

 private:
  // Rows are as aligned as their length in words allows; one load of COUNT words where that suffices.
  template <int COUNT>
  __device__ __forceinline__ static void copy(uint* to, const uint* __restrict__ from) {
    if (COUNT == 4 && kWords % 4 == 0) {
      uint4 words = *reinterpret_cast<const uint4*>(from);
      to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
    } else if (COUNT == 2 && kWords % 2 == 0) {
      uint2 words = *reinterpret_cast<const uint2*>(from);
      to[0] = words.x, to[1] = words.y;
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) to[i] = from[i];
    }
  }
};

// MASK: 0 none, 1 bool, 2 additive float. partial: [B * Hkv, splits, rows, DV]; stats: [B * Hkv, splits, rows, 2] with the
// largest score (in powers of 2) and the sum of weights. softcap: in powers of 2 too. Lane = 4 * group + pair.
template <int D, int DV, int KEY_BITS, int VALUE_BITS, int DV_TILE, int COLUMN_TILES, int MASK, bool CAPPED, typename Mask>
__device__ __forceinline__ void turboquant_decode(
    const float* __restrict__ queries, const uint* __restrict__ key_codes, const __nv_bfloat16* __restrict__ key_norms,
    const uint* __restrict__ value_codes, const __nv_bfloat16* __restrict__ value_norms,
    const uint* __restrict__ key_table, const uint* __restrict__ value_table, const Mask* __restrict__ mask,
    int mask_heads, int mask_queries, int num_keys, int num_kv_heads, int rows, int num_queries, int length, int offset,
    bool causal, int window, float softcap, float* __restrict__ partial, float* __restrict__ stats, float* __restrict__ sums,
    float* __restrict__ warp_stats, uint* __restrict__ query_fragments) {
  constexpr int kSteps = D / 32, kParts = DV / DV_TILE, kKeyWarps = kTurboquantWarps / kParts, kTiles = DV_TILE / 16;
  constexpr int kRows = 4 * COLUMN_TILES;
  constexpr bool kQueriesInRegisters = D * COLUMN_TILES <= 256;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane >> 2, pair = lane & 3;
  const int part = warp % kParts, key_warp = warp / kParts;
  const int split = blockIdx.x, num_splits = gridDim.x, kv_head = blockIdx.y;
  const int first_row = blockIdx.z * kRows;

  // Fragments of the queries: of column tile n the lane holds row group / 2, upper or lower bytes by the parity of group.
  // Of columns 2 * pair and 2 * pair + 1: `start_sum[n]` takes the 64 out of the scores, `unit[n]` is what 1 stands for.
  uint fragments[kQueriesInRegisters ? COLUMN_TILES : 1][kQueriesInRegisters ? kSteps : 1][2];
  int start_sum[COLUMN_TILES][2];
  float unit[COLUMN_TILES];
#pragma unroll
  for (int n = 0; n < COLUMN_TILES; ++n) {
    const int row = first_row + 4 * n + (group >> 1);
    const float4* from =
        reinterpret_cast<const float4*>(queries + (size_t(kv_head) * rows + (row < rows ? row : 0)) * D) + pair * (D / 16);
    float largest = 1e-30f;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      const float4 x = from[i];
      largest = fmaxf(largest, fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w))));
    }
    largest = fmaxf(largest, __shfl_xor_sync(kTurboquantLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kTurboquantLanes, largest, 2));
    const float per_unit = row < rows ? 16319.0f / largest : 0.0f;
    int sum = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float4 x = from[2 * step + i];
        const int whole[4] = {int(rintf(x.x * per_unit)), int(rintf(x.y * per_unit)), int(rintf(x.z * per_unit)),
                              int(rintf(x.w * per_unit))};
        uint word = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int upper = (whole[j] + 64) >> 7, byte = group & 1 ? whole[j] - 128 * upper : upper;
          sum += byte;
          word |= (uint(byte) & 0xffu) << (8 * j);
        }
        if (kQueriesInRegisters) fragments[kQueriesInRegisters ? n : 0][kQueriesInRegisters ? step : 0][i] = word;
        if (!kQueriesInRegisters && warp == 0) query_fragments[((n * kSteps + step) * 2 + i) * 32 + lane] = word;
      }
    }
    sum += __shfl_xor_sync(kTurboquantLanes, sum, 1);
    sum += __shfl_xor_sync(kTurboquantLanes, sum, 2);
    start_sum[n][0] = 64 * __shfl_sync(kTurboquantLanes, sum, 8 * pair);
    start_sum[n][1] = 64 * __shfl_sync(kTurboquantLanes, sum, 8 * pair + 4);
    unit[n] = __shfl_sync(kTurboquantLanes, largest * (1.0f / 16319.0f), 8 * pair);
  }
  if (!kQueriesInRegisters) __syncthreads();
  uint key_entries[4], value_entries[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) key_entries[i] = key_table[i], value_entries[i] = value_table[i];

  // Keys that some row of the call sees, and those that every row sees.
  const int seen_end = causal ? min(length, offset + num_queries) : length;
  const int seen_start = window > 0 ? max(0, offset + 1 - window) & ~15 : 0;
  const int common_end = causal ? min(length, offset + 1) : length;
  const int common_start = window > 0 ? max(0, offset + num_queries - window) : 0;
  const int per_split = (max(seen_end - seen_start, 0) + num_splits * 64 - 1) / (num_splits * 64) * 64;
  const int start = seen_start + split * per_split, end = min(start + per_split, seen_end);

  constexpr int kKeyOctets = D / 32, kValueOctets = DV_TILE / 64;
  using KeyCodes = TurboquantCodes<KEY_BITS, D, kKeyOctets>;
  using ValueCodes = TurboquantCodes<VALUE_BITS, DV, kValueOctets>;
  const int value_octet = part * (DV_TILE / 8) + group * kValueOctets;
  const TurboquantRow key_row =
      KeyCodes::row(key_codes + (size_t(kv_head) * num_keys + group) * KeyCodes::kWords, pair * kKeyOctets);
  const TurboquantRow value_row =
      ValueCodes::row(value_codes + (size_t(kv_head) * num_keys + 2 * pair) * ValueCodes::kWords, value_octet);
  key_norms += size_t(kv_head) * num_keys + group;
  value_norms += size_t(kv_head) * num_keys + group;
  KeyCodes keys[2];
  ValueCodes values[4];
  __nv_bfloat16 key_norm[2], value_norm[2];
  // Norms of keys group and group + 8; codes of those keys, and of values 2 pair, 2 pair + 1, and 8 after each.
  auto load_keys = [&](int from) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      keys[i].load(key_row, from * KeyCodes::kWords + 8 * i * KeyCodes::kWords);
      key_norm[i] = key_norms[from + 8 * i];
    }
  };
  auto load_values = [&](int from) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      values[i].load(value_row, from * ValueCodes::kWords + ((i & 1) + 8 * (i >> 1)) * ValueCodes::kWords);
#pragma unroll
    for (int i = 0; i < 2; ++i) value_norm[i] = value_norms[from + 8 * i];
  };

  float result[COLUMN_TILES][kTiles][4], peak[COLUMN_TILES], total[COLUMN_TILES];
#pragma unroll
  for (int n = 0; n < COLUMN_TILES; ++n) {
    peak[n] = kTurboquantLowest, total[n] = 0.0f;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) result[n][i][0] = result[n][i][1] = result[n][i][2] = result[n][i][3] = 0.0f;
  }

  // A tile that would overrun the store is moved back; the keys it then sees twice are hidden.
  const int last_tile = num_keys - 16;
  int at = start + 16 * key_warp;
  if (at < end) {
    load_keys(min(at, last_tile));
    load_values(min(at, last_tile));
  }
  while (at < end) {
    // After the last tile the loads take its own keys again, unused: no branch in the loop.
    const int from = min(at, last_tile), after = min(at + 16 * kKeyWarps < end ? at + 16 * kKeyWarps : at, last_tile);

    // Two sums each: a product waits for the one before it, and more chains hide more of that.
    int c[COLUMN_TILES][2][4];
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[n][0][i] = start_sum[n][i & 1], c[n][1][i] = 0;
    }
#pragma unroll
    for (int i = 0; i < kKeyOctets; ++i) {
      const uint codes[2] = {keys[0].octet(i, pair * kKeyOctets), keys[1].octet(i, pair * kKeyOctets)};
      const uint a[4] = {turboquant_lookup<KEY_BITS>(codes[0], key_entries, false),
                         turboquant_lookup<KEY_BITS>(codes[1], key_entries, false),
                         turboquant_lookup<KEY_BITS>(codes[0], key_entries, true),
                         turboquant_lookup<KEY_BITS>(codes[1], key_entries, true)};
#pragma unroll
      for (int n = 0; n < COLUMN_TILES; ++n) {
        if (kQueriesInRegisters) {
          turboquant_mma_bytes(c[n][i & 1], a, fragments[kQueriesInRegisters ? n : 0][kQueriesInRegisters ? i : 0]);
        } else {
          const uint* words = query_fragments + (n * kSteps + i) * 64 + lane;
          const uint b[2] = {words[0], words[32]};
          turboquant_mma_bytes(c[n][i & 1], a, b);
        }
      }
    }
    // Of column tile n the lane holds the scores of row 4 n + pair: keys group and group + 8.
    float score[COLUMN_TILES][2];
    bool higher = false;
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; ++n) {
      const int row = min(first_row + 4 * n + pair, rows - 1), query = row % num_queries;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int whole = 128 * (c[n][0][2 * i] + c[n][1][2 * i]) + (c[n][0][2 * i + 1] + c[n][1][2 * i + 1]);
        score[n][i] = float(whole) * (unit[n] * float(key_norm[i]));
        if (CAPPED) score[n][i] = softcap * tanhf(score[n][i] / softcap);
        if (MASK) {
          const int head = kv_head % num_kv_heads * (rows / num_queries) + row / num_queries;
          const Mask shown = mask[((size_t(kv_head / num_kv_heads) * mask_heads + (mask_heads > 1 ? head : 0)) *
                                       mask_queries + (mask_queries > 1 ? query : 0)) * num_keys + from + group + 8 * i];
          if (MASK == 1 && !shown) score[n][i] = __uint_as_float(0xff800000u);
          if (MASK == 2) score[n][i] += float(shown) * 1.44269504f;
        }
        if (at + 16 > common_end || at < common_start) {
          const int key = from + group + 8 * i;
          const int row_end = causal ? min(length, offset + query + 1) : length;
          const int row_start = window > 0 ? max(0, offset + query + 1 - window) : 0;
          if (key >= row_end || key < max(row_start, at)) score[n][i] = __uint_as_float(0xff800000u);
        }
      }
      higher |= fmaxf(score[n][0], score[n][1]) > peak[n] + 8.0f;
    }
    load_keys(after);

    // The peak may lag behind by 2^8: weights stay far inside the range of float, and most tiles need no rescaling.
    if (__any_sync(kTurboquantLanes, higher)) {
#pragma unroll
      for (int n = 0; n < COLUMN_TILES; ++n) {
        float highest = fmaxf(score[n][0], score[n][1]);
#pragma unroll
        for (int i = 4; i < 32; i *= 2) highest = fmaxf(highest, __shfl_xor_sync(kTurboquantLanes, highest, i));
        highest = fmaxf(highest, peak[n]);
        const float keep = exp2f(peak[n] - highest);
        peak[n] = highest;
        total[n] *= keep;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) result[n][i][j] *= keep;
        }
      }
    }
    // From (key group, row pair) to (keys 2 pair.., row group / 2), halves by the parity of group.
    uint weights[COLUMN_TILES][2];
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; ++n) {
      const uint choose = group & 1 ? 0x5410 : 0x7632;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float weight = exp2f(score[n][i] - peak[n]);
        total[n] += weight;
        const uint halves = turboquant_halves(weight * float(value_norm[i]));
        const uint even = __shfl_sync(kTurboquantLanes, halves, 8 * pair + (group >> 1));
        const uint odd = __shfl_sync(kTurboquantLanes, halves, 8 * pair + 4 + (group >> 1));
        weights[n][i] = turboquant_permute(even, odd, choose);
      }
    }

#pragma unroll
    for (int i = 0; i < kValueOctets; ++i) {
      uint codes[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) codes[j] = values[j].octet(i, value_octet);
      // Nibbles of two keys in turn: one lookup then gives the operands of two coordinates.
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint mixed[2];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          mixed[j] = odd ? ((codes[2 * j] >> 4) & 0x0f0f0f0fu) | (codes[2 * j + 1] & 0xf0f0f0f0u)
                         : (codes[2 * j] & 0x0f0f0f0fu) | ((codes[2 * j + 1] << 4) & 0xf0f0f0f0u);
#pragma unroll
        for (int upper = 0; upper < 2; ++upper) {
          const uint low = turboquant_lookup<VALUE_BITS>(mixed[0], value_entries, upper);
          const uint high = turboquant_lookup<VALUE_BITS>(mixed[1], value_entries, upper);
          const uint a[4] = {turboquant_less_384(turboquant_permute(low, 0x43434343u, 0x4140)),
                             turboquant_less_384(turboquant_permute(low, 0x43434343u, 0x4342)),
                             turboquant_less_384(turboquant_permute(high, 0x43434343u, 0x4140)),
                             turboquant_less_384(turboquant_permute(high, 0x43434343u, 0x4342))};
#pragma unroll
          for (int n = 0; n < COLUMN_TILES; ++n) turboquant_mma(result[n][4 * i + 2 * upper + odd], a, weights[n]);
        }
      }
    }
    load_values(after);
    at += 16 * kKeyWarps;
  }

  // The warps of the block agree on a peak and add up.
#pragma unroll
  for (int n = 0; n < COLUMN_TILES; ++n) {
#pragma unroll
    for (int i = 4; i < 32; i *= 2) total[n] += __shfl_xor_sync(kTurboquantLanes, total[n], i);
    if (group == 0) {
      warp_stats[(warp * kRows + 4 * n + pair) * 2] = peak[n];
      warp_stats[(warp * kRows + 4 * n + pair) * 2 + 1] = total[n];
    }
  }
  for (int i = threadIdx.x; i < kRows * DV; i += 32 * kTurboquantWarps) sums[i] = 0.0f;
  __syncthreads();
  const size_t out_row = (size_t(kv_head) * num_splits + split) * rows + first_row;
  float keep[COLUMN_TILES];
#pragma unroll
  for (int n = 0; n < COLUMN_TILES; ++n) {
    float block_peak = kTurboquantLowest, block_total = 0.0f;
#pragma unroll
    for (int i = 0; i < kKeyWarps; ++i)
      block_peak = fmaxf(block_peak, warp_stats[(i * kParts * kRows + 4 * n + pair) * 2]);
#pragma unroll
    for (int i = 0; i < kKeyWarps; ++i) {
      const float* one = warp_stats + (i * kParts * kRows + 4 * n + pair) * 2;
      block_total += one[1] * exp2f(one[0] - block_peak);
    }
    keep[n] = exp2f(peak[n] - block_peak);
    if (warp == 0 && group == 0 && first_row + 4 * n + pair < rows) {
      stats[(out_row + 4 * n + pair) * 2] = block_peak;
      stats[(out_row + 4 * n + pair) * 2 + 1] = block_total;
    }
  }
  for (int turn = 0; turn < kKeyWarps; ++turn) {
    if (turn == key_warp) {
#pragma unroll
      for (int n = 0; n < COLUMN_TILES; ++n) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          // Tile i covers coordinates 8 octet + 4 upper + odd, and 2 after it.
          float* to = sums + (4 * n + pair) * DV + part * DV_TILE + group * (DV_TILE / 8) + (i >> 2) * 8 +
                      (i >> 1 & 1) * 4 + (i & 1);
          to[0] += (result[n][i][0] + result[n][i][1]) * keep[n];
          to[2] += (result[n][i][2] + result[n][i][3]) * keep[n];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kRows * DV; i += 32 * kTurboquantWarps)
    if (first_row + i / DV < rows) partial[out_row * DV + i] = sums[i];
}

#endif
