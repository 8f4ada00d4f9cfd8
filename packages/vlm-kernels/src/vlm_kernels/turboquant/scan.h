// Split-K attention of a few query rows over packed keys and values with SIMD groups of 32 lanes: all head sizes that are
// multiples of 8, all bits. Common to CUDA and Metal.
//
// One block: ROWS query rows of one key-value head, one range of keys; each of its 4 SIMD groups takes 8 keys at a time.
// Lane = 4 * group + pair. Scores: every fourth octet of key `group`, summed over the four lanes of the group. Result: every
// eighth octet of the values of keys `pair` and `pair + 4`, summed over the groups' lanes once, at the end.
#ifndef TURBOQUANT_SCAN_H
#define TURBOQUANT_SCAN_H

// MASK: 0 none, 1 bool, 2 additive float. partial: [B * Hkv, splits, rows, DV]; stats: [B * Hkv, splits, rows, 2] with the
// largest score (in powers of 2) and the sum of weights. softcap: in powers of 2 too. extent: rows, queries, mask heads, mask queries.
template <int D, int DV, int KEY_BITS, int VALUE_BITS, int ROWS, int MASK, bool CAPPED, typename Mask>
GPU_FUNCTION void turboquant_scan(const GPU_DEVICE float* queries, const GPU_DEVICE uint* key_codes,
                                  const GPU_DEVICE GPU_BFLOAT* key_norms, const GPU_DEVICE uint* value_codes,
                                  const GPU_DEVICE GPU_BFLOAT* value_norms, const GPU_DEVICE float* key_centroids,
                                  const GPU_DEVICE float* value_centroids, const GPU_DEVICE Mask* mask, int mask_heads,
                                  int mask_queries, int num_keys, int num_kv_heads, int rows, int num_queries,
                                  int length, int offset, bool causal, int window, float softcap, int key_words, int value_words,
                                  GPU_DEVICE float* partial, GPU_DEVICE float* stats, GPU_SHARED float* q,
                                  GPU_SHARED float* key_table, GPU_SHARED float* value_table, GPU_SHARED float* sums,
                                  GPU_SHARED float* warp_stats, int thread_id, int split, int num_splits, int kv_head,
                                  int row_tile) {
  constexpr int kWarps = 4, kKeySlots = (D / 8 + 3) / 4, kValueSlots = (DV / 8 + 7) / 8;
  const int lane = thread_id % 32, warp = thread_id / 32, group = lane / 4, pair = lane % 4;
  const int first_row = row_tile * ROWS;
  for (int i = thread_id; i < ROWS * D; i += 32 * kWarps)
    q[i] = first_row + i / D < rows ? queries[(size_t(kv_head) * rows + first_row) * D + i] : 0.0f;
  for (int i = thread_id; i < (1 << KEY_BITS); i += 32 * kWarps) key_table[i] = key_centroids[i];
  for (int i = thread_id; i < (1 << VALUE_BITS); i += 32 * kWarps) value_table[i] = value_centroids[i];
  for (int i = thread_id; i < ROWS * DV; i += 32 * kWarps) sums[i] = 0.0f;
  GPU_BARRIER();

  int seen_end = length, seen_start = 0;
  if (causal && offset + num_queries < seen_end) seen_end = offset + num_queries;
  if (window > 0 && offset + 1 > window) seen_start = offset + 1 - window;
  const int span = seen_end > seen_start ? seen_end - seen_start : 0;
  const int per_split = (span + num_splits * 32 - 1) / (num_splits * 32) * 32;
  const int start = seen_start + split * per_split;
  const int end = start + per_split < seen_end ? start + per_split : seen_end;
  const size_t head_keys = size_t(kv_head) * num_keys;

  float result[ROWS][kValueSlots][8], peak[ROWS], total[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    peak[r] = -1e30f;
    total[r] = 0.0f;
    for (int i = 0; i < kValueSlots; ++i)
      for (int j = 0; j < 8; ++j) result[r][i][j] = 0.0f;
  }
  for (int at = start + 8 * warp; at < end; at += 8 * kWarps) {
    const int key = at + group, safe_key = key < num_keys ? key : num_keys - 1;
    float score[ROWS];
    for (int r = 0; r < ROWS; ++r) score[r] = 0.0f;
    for (int i = 0; i < kKeySlots; ++i) {
      const int n = 4 * i + pair;
      if (n < D / 8) {
        TurboquantOctet<KEY_BITS, D> octet;
        octet.load(key_codes + (head_keys + safe_key) * key_words, n);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float value = key_table[octet.code(j)];
#pragma unroll
          for (int r = 0; r < ROWS; ++r) score[r] += q[r * D + 8 * n + j] * value;
        }
      }
    }
    const float norm = float(key_norms[head_keys + safe_key]);
    float weight[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float s = score[r];
      s += GPU_FROM_XOR(s, 1);
      s += GPU_FROM_XOR(s, 2);
      s *= norm;
      if (CAPPED) s = softcap * GPU_TANH(s / softcap);
      const int row = first_row + r < rows ? first_row + r : rows - 1, query = row % num_queries;
      if (MASK) {
        const int head = kv_head % num_kv_heads * (rows / num_queries) + row / num_queries;
        const Mask shown = mask[((size_t(kv_head / num_kv_heads) * mask_heads + (mask_heads > 1 ? head : 0)) * mask_queries +
                                 (mask_queries > 1 ? query : 0)) * num_keys + safe_key];
        if (MASK == 1 && !shown) s = GPU_NONE;
        if (MASK == 2) s += float(shown) * 1.44269504f;
      }
      if (key >= end || (causal && key > offset + query) || (window > 0 && key <= offset + query - window)) s = GPU_NONE;
      // The peak of all 8 keys; it never falls, so a weight never overflows.
      float highest = GPU_MAX(s, peak[r]);
      highest = GPU_MAX(highest, GPU_FROM_XOR(highest, 4));
      highest = GPU_MAX(highest, GPU_FROM_XOR(highest, 8));
      highest = GPU_MAX(highest, GPU_FROM_XOR(highest, 16));
      if (highest > peak[r]) {
        const float keep = GPU_EXP2(peak[r] - highest);
        peak[r] = highest;
        total[r] *= keep;
#pragma unroll
        for (int i = 0; i < kValueSlots; ++i) {
#pragma unroll
          for (int j = 0; j < 8; ++j) result[r][i][j] *= keep;
        }
      }
      weight[r] = GPU_EXP2(s - peak[r]);
      total[r] += weight[r];
    }
    for (int second = 0; second < 2; ++second) {
      const int value_key = at + pair + 4 * second, safe_value = value_key < num_keys ? value_key : num_keys - 1;
      const float value_norm = float(value_norms[head_keys + safe_value]);
      float share[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) share[r] = GPU_FROM_LANE(weight[r], 4 * (pair + 4 * second)) * value_norm;
#pragma unroll
      for (int i = 0; i < kValueSlots; ++i) {
        const int n = 8 * i + group;
        if (n < DV / 8) {
          TurboquantOctet<VALUE_BITS, DV> octet;
          octet.load(value_codes + (head_keys + safe_value) * value_words, n);
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float value = value_table[octet.code(j)];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) result[r][i][j] += share[r] * value;
          }
        }
      }
    }
  }

  // The SIMD groups agree on a peak and add up.
  for (int r = 0; r < ROWS; ++r) {
    float sum = total[r];
    sum += GPU_FROM_XOR(sum, 4);
    sum += GPU_FROM_XOR(sum, 8);
    sum += GPU_FROM_XOR(sum, 16);
    if (lane == 0) {
      warp_stats[(warp * ROWS + r) * 2] = peak[r];
      warp_stats[(warp * ROWS + r) * 2 + 1] = sum;
    }
  }
  GPU_BARRIER();
  const size_t out_row = (size_t(kv_head) * num_splits + split) * rows + first_row;
  float keep[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    float block_peak = -1e30f, block_total = 0.0f;
    for (int i = 0; i < kWarps; ++i) block_peak = GPU_MAX(block_peak, warp_stats[(i * ROWS + r) * 2]);
    for (int i = 0; i < kWarps; ++i)
      block_total += warp_stats[(i * ROWS + r) * 2 + 1] * GPU_EXP2(warp_stats[(i * ROWS + r) * 2] - block_peak);
    keep[r] = GPU_EXP2(peak[r] - block_peak);
    if (thread_id == 0 && first_row + r < rows) {
      stats[(out_row + r) * 2] = block_peak;
      stats[(out_row + r) * 2 + 1] = block_total;
    }
  }
  for (int turn = 0; turn < kWarps; ++turn) {
    for (int r = 0; r < ROWS; ++r)
      for (int i = 0; i < kValueSlots; ++i)
        for (int j = 0; j < 8; ++j) {
          float sum = result[r][i][j];
          sum += GPU_FROM_XOR(sum, 1);
          sum += GPU_FROM_XOR(sum, 2);
          const int n = 8 * i + group;
          if (turn == warp && pair == 0 && n < DV / 8) sums[r * DV + 8 * n + j] += sum * keep[r];
        }
    GPU_BARRIER();
  }
  for (int i = thread_id; i < ROWS * DV; i += 32 * kWarps)
    if (first_row + i / DV < rows) partial[out_row * DV + i] = sums[i];
}

#endif
