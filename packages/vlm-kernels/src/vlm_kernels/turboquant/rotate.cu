// Rotation by the threads of a block, and the encoder. Included before decode.cu.
#ifndef TURBOQUANT_ROTATE_CU
#define TURBOQUANT_ROTATE_CU

// Column d of a matrix [D, D], the rows of one of GROUPS groups of threads. The first rows are loaded ahead, while
// the vector is not known yet.
template <int D, int GROUPS>
struct TurboquantColumns {
  static constexpr int kCount = (D + GROUPS - 1) / GROUPS, kAhead = kCount < 16 ? kCount : 16;
  float ahead[kAhead];

  __device__ __forceinline__ void load(const float* __restrict__ matrix, int group, int d) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int j = group * kCount + i;
      ahead[i] = j < D && group < GROUPS ? matrix[j * D + d] : 0.0f;
    }
  }

  // This group's share of y . column.
  __device__ __forceinline__ float dot(const float* y, const float* __restrict__ matrix, int group, int d) const {
    const int first = group * kCount, last = group < GROUPS ? (first + kCount < D ? first + kCount : D) : first;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i < last) sum += y[first + i] * ahead[i];
#pragma unroll 16
    for (int j = first + kAhead; j < last; ++j) sum += y[j] * matrix[j * D + d];
    return sum;
  }
};

// One block: VECTORS vectors of D coordinates to codes and norms. The sums of a vector do not depend on how many share the
// block, so that a chunk gives the codes that its tokens would give one by one.
template <int BITS, int D, int VECTORS, int GROUPS, int THREADS, typename T>
__device__ __forceinline__ void turboquant_encode(const T* __restrict__ x, const float* __restrict__ matrix,
                                                  const float* __restrict__ thresholds,
                                                  const float* __restrict__ centroids, int num_vectors, int num_words,
                                                  uint32_t* __restrict__ codes, __nv_bfloat16* __restrict__ norms,
                                                  float* y, float* scratch, float* lengths, float* table,
                                                  uint8_t* code) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = threadIdx.x / D, d = threadIdx.x % D;
  const size_t first = size_t(blockIdx.x) * VECTORS;
  TurboquantColumns<D, GROUPS> columns;
  columns.load(matrix, group, d);
  for (int i = threadIdx.x; i < VECTORS * D; i += THREADS)
    y[i] = first + i / D < size_t(num_vectors) ? float(x[first * D + i]) : 0.0f;
  for (int i = threadIdx.x; i < (1 << BITS); i += THREADS) table[i] = centroids[i];
  for (int i = threadIdx.x; i < (1 << (BITS - 1)) - 1; i += THREADS) table[(1 << BITS) + i] = thresholds[i];
  __syncthreads();
  for (int v = warp; v < VECTORS; v += THREADS / 32) {
    float sum = 0.0f;
    for (int i = lane; i < D; i += 32) sum += y[v * D + i] * y[v * D + i];
#pragma unroll
    for (int i = 1; i < 32; i *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
    if (lane == 0) lengths[v] = sqrtf(sum);
  }
  if (group < GROUPS) {
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) scratch[(group * VECTORS + v) * D + d] = columns.dot(y + v * D, matrix, group, d);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < VECTORS * D; i += THREADS) {
    float value = 0.0f;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) value += scratch[g * VECTORS * D + i];
    const float length = lengths[i / D];
    value *= sqrtf(float(D)) / (length > 1e-30f ? length : 1e-30f);
    // Bisection of the thresholds between magnitudes.
    int magnitude = 0;
#pragma unroll
    for (int bit = BITS - 2; bit >= 0; --bit)
      if (fabsf(value) >= table[(1 << BITS) + magnitude + (1 << bit) - 1]) magnitude += 1 << bit;
    y[i] = value;
    code[i] = uint8_t(magnitude | (value < 0.0f ? 1 << (BITS - 1) : 0));
  }
  __syncthreads();
  for (int v = warp; v < VECTORS; v += THREADS / 32) {
    float cross = 0.0f, square = 0.0f;
    for (int i = lane; i < D; i += 32) {
      const float centroid = table[code[v * D + i]];
      cross += y[v * D + i] * centroid;
      square += centroid * centroid;
    }
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
      cross += __shfl_xor_sync(0xffffffffu, cross, i);
      square += __shfl_xor_sync(0xffffffffu, square, i);
    }
    if (lane == 0 && first + v < size_t(num_vectors))
      norms[first + v] = __nv_bfloat16(lengths[v] * (cross / square) / sqrtf(float(D)));
  }
  // Words: fields of 4 bits first, then of 2, then of 1; see packing.py.
  constexpr int kFull = D / 8, kHalf = (D + 15) / 16;
  for (int i = threadIdx.x; i < VECTORS * num_words; i += THREADS) {
    const int v = i / num_words;
    int word = i % num_words, low = 0, size = 4;
    for (int field = 0; field < BITS / 4 && word >= kFull; ++field) word -= kFull, low += 4;
    if (low == BITS / 4 * 4) {
      size = BITS & 2 ? 2 : 1;
      if ((BITS & 2) && word >= kHalf) word -= kHalf, low += 2, size = 1;
    }
    uint32_t packed = 0;
    for (int octet = 0; octet < 4 / size; ++octet) {
      const int start = (word * (4 / size) + octet) * 8;
      for (int j = 0; j < 8 && start < D; ++j)
        packed |= (uint32_t(code[v * D + start + j]) >> low & ((1u << size) - 1)) << (4 * j + size * octet);
    }
    if (first + v < size_t(num_vectors)) codes[first * num_words + i] = packed;
  }
}

#endif
