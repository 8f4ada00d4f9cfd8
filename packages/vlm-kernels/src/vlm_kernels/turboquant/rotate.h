// Rotation by the threads of a block. Common to CUDA and Metal.
#ifndef TURBOQUANT_ROTATE_H
#define TURBOQUANT_ROTATE_H

GPU_FUNCTION float turboquant_simd_sum(float x) {
  for (int i = 1; i < 32; i *= 2) x += GPU_FROM_XOR(x, i);
  return x;
}

// Column d of a matrix [D, D], the rows of one of GROUPS groups of threads. The first rows are loaded ahead, while
// the vector is not known yet.
template <int D, int GROUPS>
struct TurboquantColumns {
  static constexpr GPU_CONSTANT int kCount = (D + GROUPS - 1) / GROUPS;
  static constexpr GPU_CONSTANT int kAhead = kCount < 16 ? kCount : 16;
  float ahead[kAhead];

  GPU_FUNCTION void load(const GPU_DEVICE float* matrix, int group, int d) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = group * kCount + i;
      ahead[i] = j < D && group < GROUPS ? matrix[j * D + d] : 0.0f;
    }
  }

  // This group's share of y . column.
  GPU_FUNCTION float dot(const GPU_SHARED float* y, const GPU_DEVICE float* matrix, int group, int d) const {
    const int first = group * kCount;
    const int last = group < GROUPS ? (first + kCount < D ? first + kCount : D) : first;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i < last) sum += y[first + i] * ahead[i];
#pragma unroll 16
    for (int j = first + kAhead; j < last; ++j) sum += y[j] * matrix[j * D + d];
    return sum;
  }
};

// factor * x @ matrix for one vector: out[0..D). y: [D], scratch: [THREADS].
template <int D, int THREADS, typename T>
GPU_FUNCTION void turboquant_rotate(const GPU_DEVICE T* x, const GPU_DEVICE float* matrix, float factor,
                                    GPU_DEVICE float* out, GPU_SHARED float* y, GPU_SHARED float* scratch, int thread_id) {
  constexpr int kGroups = THREADS / D > 0 ? THREADS / D : 1;
  for (int d = thread_id; d < D; d += THREADS) y[d] = float(x[d]) * factor;
  GPU_BARRIER();
  if (THREADS >= D) {
    const int group = thread_id / D, d = thread_id % D;
    TurboquantColumns<D, kGroups> columns;
    columns.load(matrix, group, d);
    scratch[thread_id] = columns.dot(y, matrix, group, d);
    GPU_BARRIER();
    if (thread_id < D) {
      float sum = 0.0f;
      for (int i = 0; i < kGroups; ++i) sum += scratch[i * D + d];
      out[d] = sum;
    }
  } else {
    for (int d = thread_id; d < D; d += THREADS) {
      float sum = 0.0f;
      for (int j = 0; j < D; ++j) sum += y[j] * matrix[j * D + d];
      out[d] = sum;
    }
  }
}

#endif
