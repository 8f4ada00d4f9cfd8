// Adding up the ranges of keys. Common to CUDA and Metal.
#ifndef TURBOQUANT_REDUCE_H
#define TURBOQUANT_REDUCE_H

// One block per query row: its splits added up, divided, rotated back; `log_total` gets the natural logarithm of the sum of all
// weights. y: [DV], scratch: [THREADS].
template <int DV, int THREADS, typename T>
GPU_FUNCTION void turboquant_reduce(const GPU_DEVICE float* partial, const GPU_DEVICE float* stats,
                                    const GPU_DEVICE float* matrix, float step, int num_splits, int rows,
                                    GPU_DEVICE T* out, GPU_DEVICE float* log_total, GPU_SHARED float* weights,
                                    GPU_SHARED float* y,
                                    GPU_SHARED float* scratch, int thread_id, int kv_head, int row) {
  constexpr int kGroups = THREADS / DV > 0 ? THREADS / DV : 1;
  const int lane = thread_id % 32, group = thread_id / DV, d = thread_id % DV;
  const size_t first = size_t(kv_head) * num_splits * rows + row;
  TurboquantColumns<DV, kGroups> columns;
  columns.load(matrix, group, d);
  float peak = -1e30f, total = 0.0f;
  for (int i = lane; i < num_splits; i += 32) peak = GPU_MAX(peak, stats[(first + size_t(i) * rows) * 2]);
  for (int i = 1; i < 32; i *= 2) peak = GPU_MAX(peak, GPU_FROM_XOR(peak, i));
  for (int i = lane; i < num_splits; i += 32) {
    const float keep = GPU_EXP2(stats[(first + size_t(i) * rows) * 2] - peak);
    total += keep * stats[(first + size_t(i) * rows) * 2 + 1];
    if (thread_id < 32) weights[i] = keep;
  }
  total = turboquant_simd_sum(total);
  GPU_BARRIER();

  // A row that saw no key gives zeros.
  const float factor = total > 0.0f ? step / total : 0.0f;
  if (thread_id == 0)
    log_total[kv_head * rows + row] = total > 0.0f ? (peak + GPU_LOG2(total)) * 0.69314718f : GPU_NONE;
  if (THREADS >= DV) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = group; i < num_splits; i += kGroups) sum += weights[i] * partial[(first + size_t(i) * rows) * DV + d];
    scratch[thread_id] = sum;
    GPU_BARRIER();
    if (group == 0) {
      sum = 0.0f;
      for (int i = 0; i < kGroups; ++i) sum += scratch[i * DV + d];
      y[d] = sum * factor;
    }
    GPU_BARRIER();
    scratch[thread_id] = columns.dot(y, matrix, group, d);
    GPU_BARRIER();
    if (group == 0) {
      sum = 0.0f;
      for (int i = 0; i < kGroups; ++i) sum += scratch[i * DV + d];
      out[(size_t(kv_head) * rows + row) * DV + d] = T(sum);
    }
  } else {
    for (int e = thread_id; e < DV; e += THREADS) {
      float sum = 0.0f;
      for (int i = 0; i < num_splits; ++i) sum += weights[i] * partial[(first + size_t(i) * rows) * DV + e];
      y[e] = sum * factor;
    }
    GPU_BARRIER();
    for (int e = thread_id; e < DV; e += THREADS) {
      float sum = 0.0f;
      for (int j = 0; j < DV; ++j) sum += y[j] * matrix[j * DV + e];
      out[(size_t(kv_head) * rows + row) * DV + e] = T(sum);
    }
  }
}

#endif
