// Split-K attention of a few query rows over packed keys and values, on the tensor cores.
//
// One block: 8 query rows of one key-value head (heads of its group x queries), one range of keys. Each warp takes 16 keys
// at a time through two products, both m16n8k16 with the query rows as M:
//
//   scores[row, key]  = q[row, dim] . K[dim, key]     rows 0-7 hold the upper 8 mantissa bits of q, rows 8-15 the rest,
//   result[row, dim] += p[row, key] . V[key, dim]     so that bf16 operands carry 16 bits; the same for p
//
// The order of the summed index is free, so each lane multiplies the codes it has loaded: in the first product a quarter of
// the coordinates of one key, in the second an eighth of the coordinates of four keys. No shuffles, no shared memory.
//
// A centroid is an integer level in -63..63. Its byte 0x80 | (level + 64) comes from a register table by byte permutation; under
// the upper byte 0x43 it is the bfloat16 number 256 + 2 (level + 64) = 384 + 2 level. The 384 is taken out of the
// scores by the starting value of the accumulator, and of V by a subtraction that is exact.

#ifndef TURBOQUANT_DECODE_CU
#define TURBOQUANT_DECODE_CU

#ifdef __EMULATED__
#define turboquant_mma emulate_mma_m16n8k16
#define turboquant_permute emulate_prmt
__device__ __forceinline__ uint turboquant_less_384(uint pair) {
  float low = __uint_as_float(pair << 16) - 384.0f, high = __uint_as_float(pair & 0xffff0000u) - 384.0f;
  return (__float_as_uint(high) & 0xffff0000u) | (__float_as_uint(low) >> 16);
}
__device__ __forceinline__ uint turboquant_pair(float low, float high) {
  return uint(__nv_bfloat16(high).bits) << 16 | __nv_bfloat16(low).bits;
}
#else
typedef unsigned int uint;
__device__ __forceinline__ void turboquant_mma(float (&c)[4], const uint (&a)[4], const uint (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
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

// Upper halves of two numbers as a bfloat16 pair, and what they leave.
__device__ __forceinline__ void turboquant_halves(float x, float y, uint& upper, uint& rest) {
  upper = turboquant_pair(x, y);
  rest = turboquant_pair(x - __uint_as_float(upper << 16), y - __uint_as_float(upper & 0xffff0000u));
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

// The keys of a tile of 16 whose scores a lane holds, and whose values it takes. Lane = 4 * group + pair.
__device__ __forceinline__ int turboquant_key(int i, int pair) { return 2 * pair + (i & 1) + 8 * (i >> 1); }

// MASK: 0 none, 1 bool, 2 additive float. partial: [B * Hkv, splits, rows, DV]; stats: [B * Hkv, splits, rows, 2] with the
// largest score (in powers of 2) and the sum of weights.
template <int D, int DV, int KEY_BITS, int VALUE_BITS, int DV_TILE, int MASK, typename Mask>
__device__ __forceinline__ void turboquant_decode(
    const float* __restrict__ queries, const uint* __restrict__ key_codes, const __nv_bfloat16* __restrict__ key_norms,
    const uint* __restrict__ value_codes, const __nv_bfloat16* __restrict__ value_norms,
    const uint* __restrict__ key_table, const uint* __restrict__ value_table, const Mask* __restrict__ mask,
    int mask_heads, int mask_queries, int num_keys, int num_kv_heads, int rows, int num_queries, int length, int offset,
    bool causal, int window, float* __restrict__ partial, float* __restrict__ stats, float* __restrict__ sums,
    float* __restrict__ warp_stats, uint4* __restrict__ query_fragments) {
  constexpr int kSteps = D / 16, kParts = DV / DV_TILE, kKeyWarps = kTurboquantWarps / kParts, kTiles = DV_TILE / 8;
  constexpr bool kQueriesInRegisters = D <= 128;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane >> 2, pair = lane & 3;
  const int part = warp % kParts, key_warp = warp / kParts;
  const int split = blockIdx.x, num_splits = gridDim.x, kv_head = blockIdx.y;
  const int row = blockIdx.z * 8 + group, query = row % num_queries;

  // Fragments of the queries, and the part of the scores that the 384 makes.
  uint fragments[kQueriesInRegisters ? kSteps : 1][4];
  float upper_sum = 0.0f, rest_sum = 0.0f;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
    if (row < rows)
      x = *reinterpret_cast<const float4*>(queries + (size_t(kv_head) * rows + row) * D + pair * (D / 4) + 4 * step);
    uint words[4];
    turboquant_halves(x.x, x.y, words[0], words[1]);
    turboquant_halves(x.z, x.w, words[2], words[3]);
    upper_sum += __uint_as_float(words[0] << 16) + __uint_as_float(words[0] & 0xffff0000u);
    rest_sum += __uint_as_float(words[1] << 16) + __uint_as_float(words[1] & 0xffff0000u);
    upper_sum += __uint_as_float(words[2] << 16) + __uint_as_float(words[2] & 0xffff0000u);
    rest_sum += __uint_as_float(words[3] << 16) + __uint_as_float(words[3] & 0xffff0000u);
    if (kQueriesInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragments[step][i] = words[i];
    } else if (warp == 0) {
      query_fragments[step * 32 + lane] = {words[0], words[1], words[2], words[3]};
    }
  }
  if (!kQueriesInRegisters) __syncthreads();
#pragma unroll
  for (int i = 1; i < 4; i *= 2) {
    upper_sum += __shfl_xor_sync(kTurboquantLanes, upper_sum, i);
    rest_sum += __shfl_xor_sync(kTurboquantLanes, rest_sum, i);
  }
  upper_sum *= -384.0f;
  rest_sum *= -384.0f;
  uint key_entries[4], value_entries[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) key_entries[i] = key_table[i], value_entries[i] = value_table[i];

  // Keys that some row of the call sees, and those that every row sees.
  const int seen_end = causal ? min(length, offset + num_queries) : length;
  const int seen_start = window > 0 ? max(0, offset + 1 - window) & ~15 : 0;
  const int common_end = causal ? min(length, offset + 1) : length;
  const int common_start = window > 0 ? max(0, offset + num_queries - window) : 0;
  const int row_end = causal ? min(length, offset + query + 1) : length;
  const int row_start = window > 0 ? max(0, offset + query + 1 - window) : 0;
  const int per_split = (max(seen_end - seen_start, 0) + num_splits * 64 - 1) / (num_splits * 64) * 64;
  const int start = seen_start + split * per_split, end = min(start + per_split, seen_end);

  key_codes += size_t(kv_head) * num_keys * TurboquantCodes<KEY_BITS, D, 1>::kWords;
  value_codes += size_t(kv_head) * num_keys * TurboquantCodes<VALUE_BITS, DV, 1>::kWords;
  key_norms += size_t(kv_head) * num_keys;
  value_norms += size_t(kv_head) * num_keys;
  if (MASK) {
    const int head = kv_head % num_kv_heads * (rows / num_queries) + min(row, rows - 1) / num_queries;
    mask += ((size_t(kv_head / num_kv_heads) * mask_heads + (mask_heads > 1 ? head : 0)) * mask_queries +
             (mask_queries > 1 ? query : 0)) * num_keys;
  }

  constexpr int kKeyOctets = D / 32, kValueOctets = DV_TILE / 64;
  const int value_octet = part * (DV_TILE / 8) + group * kValueOctets;
  float result[kTiles][4];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) result[i][0] = result[i][1] = result[i][2] = result[i][3] = 0.0f;
  float peak = kTurboquantLowest, total = 0.0f;

  using KeyCodes = TurboquantCodes<KEY_BITS, D, kKeyOctets>;
  using ValueCodes = TurboquantCodes<VALUE_BITS, DV, kValueOctets>;
  const TurboquantRow key_row = KeyCodes::row(key_codes + group * KeyCodes::kWords, pair * kKeyOctets);
  const TurboquantRow value_row = ValueCodes::row(value_codes + 2 * pair * ValueCodes::kWords, value_octet);
  key_norms += 2 * pair;
  value_norms += 2 * pair;
  KeyCodes keys[2];
  ValueCodes values[4];
  __nv_bfloat16 key_norm[4], value_norm[4];
  auto load_keys = [&](int from) {
#pragma unroll
    for (int i = 0; i < 2; ++i) keys[i].load(key_row, from * KeyCodes::kWords + 8 * i * KeyCodes::kWords);
#pragma unroll
    for (int i = 0; i < 4; ++i) key_norm[i] = key_norms[from + turboquant_key(i, 0)];
  };
  auto load_values = [&](int from) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[i].load(value_row, from * ValueCodes::kWords + turboquant_key(i, 0) * ValueCodes::kWords);
      value_norm[i] = value_norms[from + turboquant_key(i, 0)];
    }
  };

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
    // Two sums a key: a product waits for the one before it, and four chains hide more of that than two.
    float c[2][2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      c[half][0][0] = c[half][0][1] = upper_sum, c[half][0][2] = c[half][0][3] = rest_sum;
      c[half][1][0] = c[half][1][1] = c[half][1][2] = c[half][1][3] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kKeyOctets; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint codes = keys[half].octet(i, pair * kKeyOctets);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          uint bytes = turboquant_lookup<KEY_BITS>(codes, key_entries, j);
          uint b[2] = {turboquant_permute(bytes, 0x43434343u, 0x4140), turboquant_permute(bytes, 0x43434343u, 0x4342)};
          if (kQueriesInRegisters) {
            turboquant_mma(c[half][j], fragments[kQueriesInRegisters ? 2 * i + j : 0], b);
          } else {
            uint4 words = query_fragments[(2 * i + j) * 32 + lane];
            uint a[4] = {words.x, words.y, words.z, words.w};
            turboquant_mma(c[half][j], a, b);
          }
        }
      }
    }
    float score[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      score[i] = ((c[i >> 1][0][i & 1] + c[i >> 1][0][2 + (i & 1)]) + (c[i >> 1][1][i & 1] + c[i >> 1][1][2 + (i & 1)])) *
                 float(key_norm[i]);
    load_keys(after);
    if (MASK) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int index = from + turboquant_key(i, pair);
        if (MASK == 1 && !mask[index]) score[i] = __uint_as_float(0xff800000u);
        if (MASK == 2) score[i] += float(mask[index]) * 1.44269504f;
      }
    }
    if (at + 16 > common_end || at < common_start) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int index = from + turboquant_key(i, pair);
        if (index >= row_end || index < max(row_start, at)) score[i] = __uint_as_float(0xff800000u);
      }
    }

    // The peak may lag behind by 2^8: weights stay far inside the range of float, and most tiles need no rescaling.
    float highest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
    if (__any_sync(kTurboquantLanes, highest > peak + 8.0f)) {
      highest = fmaxf(highest, __shfl_xor_sync(kTurboquantLanes, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(kTurboquantLanes, highest, 2));
      highest = fmaxf(highest, peak);
      float keep = exp2f(peak - highest);
      peak = highest;
      total *= keep;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) result[i][j] *= keep;
      }
    }
    float weight[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[i] = exp2f(score[i] - peak);
      total += weight[i];
      weight[i] *= float(value_norm[i]);
    }
    uint a[4];
    turboquant_halves(weight[0], weight[1], a[0], a[1]);
    turboquant_halves(weight[2], weight[3], a[2], a[3]);

#pragma unroll
    for (int i = 0; i < kValueOctets; ++i) {
      uint codes[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) codes[j] = values[j].octet(i, value_octet);
      // Nibbles of two keys in turn: one lookup then gives both operands of the pair for two coordinates.
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint mixed[2];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          mixed[j] = odd ? ((codes[2 * j] >> 4) & 0x0f0f0f0fu) | (codes[2 * j + 1] & 0xf0f0f0f0u)
                         : (codes[2 * j] & 0x0f0f0f0fu) | ((codes[2 * j + 1] << 4) & 0xf0f0f0f0u);
#pragma unroll
        for (int upper = 0; upper < 2; ++upper) {
          uint bytes[2];
#pragma unroll
          for (int j = 0; j < 2; ++j)
            bytes[j] = turboquant_lookup<VALUE_BITS>(mixed[j], value_entries, upper);
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            uint b[2];
#pragma unroll
            for (int j = 0; j < 2; ++j)
              b[j] = turboquant_less_384(turboquant_permute(bytes[j], 0x43434343u, k ? 0x4342 : 0x4140));
            turboquant_mma(result[8 * i + 4 * upper + 2 * k + odd], a, b);
          }
        }
      }
    }
    load_values(after);
    at += 16 * kKeyWarps;
  }

  // The warps of the block agree on a peak and add up.
  total += __shfl_xor_sync(kTurboquantLanes, total, 1);
  total += __shfl_xor_sync(kTurboquantLanes, total, 2);
  if (pair == 0) {
    warp_stats[(warp * 8 + group) * 2] = peak;
    warp_stats[(warp * 8 + group) * 2 + 1] = total;
  }
  for (int i = threadIdx.x; i < 8 * DV; i += 32 * kTurboquantWarps) sums[i] = 0.0f;
  __syncthreads();
  float block_peak = kTurboquantLowest, block_total = 0.0f;
#pragma unroll
  for (int i = 0; i < kKeyWarps; ++i) block_peak = fmaxf(block_peak, warp_stats[(i * kParts * 8 + group) * 2]);
#pragma unroll
  for (int i = 0; i < kKeyWarps; ++i)
    block_total += warp_stats[(i * kParts * 8 + group) * 2 + 1] * exp2f(warp_stats[(i * kParts * 8 + group) * 2] - block_peak);
  const float keep = exp2f(peak - block_peak);
  for (int turn = 0; turn < kKeyWarps; ++turn) {
    if (turn == key_warp) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
          sums[group * DV + part * DV_TILE + (2 * pair + j) * kTiles + i] += (result[i][j] + result[i][j + 2]) * keep;
      }
    }
    __syncthreads();
  }
  const size_t first_row = (size_t(kv_head) * num_splits + split) * rows + blockIdx.z * 8;
  if (warp == 0 && pair == 0 && row < rows) {
    stats[(first_row + group) * 2] = block_peak;
    stats[(first_row + group) * 2 + 1] = block_total;
  }
  for (int i = threadIdx.x; i < 8 * DV; i += 32 * kTurboquantWarps)
    if (int(blockIdx.z) * 8 + i / DV < rows) partial[first_row * DV + i] = sums[i];
}

// y[0..D) times a matrix [D, D] by the threads of one block; `scratch` holds blockDim.x floats. The result of coordinate
// d is returned to thread d.
template <int D>
__device__ __forceinline__ float turboquant_rotate(const float* y, const float* __restrict__ matrix, float* scratch) {
  const int num_groups = blockDim.x / D, group = threadIdx.x / D, d = threadIdx.x % D, count = D / num_groups;
  float sum = 0.0f;
#pragma unroll 16
  for (int j = group * count; j < (group + 1) * count; ++j) sum += y[j] * matrix[j * D + d];
  scratch[threadIdx.x] = sum;
  __syncthreads();
  sum = 0.0f;
  if (group == 0)
    for (int i = 0; i < num_groups; ++i) sum += scratch[i * D + d];
  return sum;
}

// One block per query row: its splits added up, divided, rotated back.
template <int DV, int THREADS, int MAX_SPLITS, typename T>
__device__ __forceinline__ void turboquant_reduce(const float* __restrict__ partial, const float* __restrict__ stats,
                                                  const float* __restrict__ matrix, float step, int num_splits, int rows,
                                                  T* __restrict__ out, float* weights, float* y, float* scratch) {
  const int lane = threadIdx.x & 31, kv_head = blockIdx.y, row = blockIdx.x;
  const size_t first = size_t(kv_head) * num_splits * rows + row;
  float peak = kTurboquantLowest, total = 0.0f;
  for (int i = lane; i < num_splits; i += 32) peak = fmaxf(peak, stats[(first + size_t(i) * rows) * 2]);
#pragma unroll
  for (int i = 1; i < 32; i *= 2) peak = fmaxf(peak, __shfl_xor_sync(kTurboquantLanes, peak, i));
  for (int i = lane; i < num_splits; i += 32) {
    float keep = exp2f(stats[(first + size_t(i) * rows) * 2] - peak);
    total += keep * stats[(first + size_t(i) * rows) * 2 + 1];
    if (threadIdx.x < 32) weights[i] = keep;
  }
#pragma unroll
  for (int i = 1; i < 32; i *= 2) total += __shfl_xor_sync(kTurboquantLanes, total, i);
  __syncthreads();

  constexpr int kGroups = THREADS / DV;
  const int group = threadIdx.x / DV, d = threadIdx.x % DV;
  float sum = 0.0f;
#pragma unroll 8
  for (int i = group; i < num_splits; i += kGroups) sum += weights[i] * partial[(first + size_t(i) * rows) * DV + d];
  scratch[threadIdx.x] = sum;
  __syncthreads();
  if (group == 0) {
    sum = 0.0f;
    for (int i = 0; i < kGroups; ++i) sum += scratch[i * DV + d];
    // A row that saw no key gives zeros.
    y[d] = total > 0.0f ? sum * step / total : 0.0f;
  }
  __syncthreads();
  sum = turboquant_rotate<DV>(y, matrix, scratch);
  if (group == 0) out[(size_t(kv_head) * rows + row) * DV + d] = T(sum);
}

#endif
