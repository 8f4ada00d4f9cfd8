// The encoder. Common to CUDA and Metal.
#ifndef TURBOQUANT_ENCODE_H
#define TURBOQUANT_ENCODE_H

// One block: VECTORS vectors of D coordinates to codes and norms. The sums of a vector do not depend on how many share the
// block, so that a chunk gives the codes that its tokens would give one by one.
template <int BITS, int D, int VECTORS, int GROUPS, int THREADS, typename T>
GPU_FUNCTION void turboquant_encode(const GPU_DEVICE T* x, const GPU_DEVICE float* matrix,
                                    const GPU_DEVICE float* thresholds, const GPU_DEVICE float* centroids,
                                    int num_vectors, int num_words, GPU_DEVICE uint* codes,
                                    GPU_DEVICE GPU_BFLOAT* norms, GPU_SHARED float* y, GPU_SHARED float* scratch,
                                    GPU_SHARED float* lengths, GPU_SHARED float* table, GPU_SHARED uint8_t* code,
                                    int thread_id, int block) {
  const int lane = thread_id % 32, warp = thread_id / 32;
  const size_t first = size_t(block) * VECTORS;
  for (int i = thread_id; i < VECTORS * D; i += THREADS)
    y[i] = first + i / D < size_t(num_vectors) ? float(x[first * D + i]) : 0.0f;
  for (int i = thread_id; i < (1 << BITS); i += THREADS) table[i] = centroids[i];
  for (int i = thread_id; i < (1 << (BITS - 1)) - 1; i += THREADS) table[(1 << BITS) + i] = thresholds[i];
  GPU_BARRIER();
  for (int v = warp; v < VECTORS; v += THREADS / 32) {
    float sum = 0.0f;
    for (int i = lane; i < D; i += 32) sum += y[v * D + i] * y[v * D + i];
    sum = turboquant_simd_sum(sum);
    if (lane == 0) lengths[v] = GPU_SQRT(sum);
  }
  // Blocks of fewer threads than coordinates take the columns in turns.
  for (int start = 0; start < GROUPS * D; start += THREADS) {
    const int group = (start + thread_id) / D, d = (start + thread_id) % D;
    if (group < GROUPS) {
      TurboquantColumns<D, GROUPS> columns;
      columns.load(matrix, group, d);
      for (int v = 0; v < VECTORS; ++v) scratch[(group * VECTORS + v) * D + d] = columns.dot(y + v * D, matrix, group, d);
    }
  }
  GPU_BARRIER();
  for (int i = thread_id; i < VECTORS * D; i += THREADS) {
    float value = 0.0f;
    for (int g = 0; g < GROUPS; ++g) value += scratch[g * VECTORS * D + i];
    const float length = lengths[i / D];
    value *= GPU_SQRT(float(D)) / (length > 1e-30f ? length : 1e-30f);
    // Bisection of the thresholds between magnitudes.
    int magnitude = 0;
    for (int bit = BITS - 2; bit >= 0; --bit)
      if (GPU_ABS(value) >= table[(1 << BITS) + magnitude + (1 << bit) - 1]) magnitude += 1 << bit;
    y[i] = value;
    code[i] = uint8_t(magnitude | (value < 0.0f ? 1 << (BITS - 1) : 0));
  }
  GPU_BARRIER();
  for (int v = warp; v < VECTORS; v += THREADS / 32) {
    float cross = 0.0f, square = 0.0f;
    for (int i = lane; i < D; i += 32) {
      const float centroid = table[code[v * D + i]];
      cross += y[v * D + i] * centroid;
      square += centroid * centroid;
    }
    cross = turboquant_simd_sum(cross);
    square = turboquant_simd_sum(square);
    if (lane == 0 && first + v < size_t(num_vectors))
      norms[first + v] = GPU_BFLOAT(lengths[v] * (cross / square) / GPU_SQRT(float(D)));
  }
  // Words: fields of 4 bits first, then of 2, then of 1; see packing.py.
  constexpr int kFull = D / 8, kHalf = (D + 15) / 16;
  for (int i = thread_id; i < VECTORS * num_words; i += THREADS) {
    const int v = i / num_words;
    int word = i % num_words, low = 0, size = 4;
    for (int field = 0; field < BITS / 4 && word >= kFull; ++field) {
      word -= kFull;
      low += 4;
    }
    if (low == BITS / 4 * 4) {
      size = BITS & 2 ? 2 : 1;
      if ((BITS & 2) && word >= kHalf) {
        word -= kHalf;
        low += 2;
        size = 1;
      }
    }
    uint packed = 0;
    for (int octet = 0; octet < 4 / size; ++octet) {
      const int start = (word * (4 / size) + octet) * 8;
      for (int j = 0; j < 8 && start < D; ++j)
        packed |= ((uint(code[v * D + start + j]) >> uint(low)) & ((1u << uint(size)) - 1u)) << uint(4 * j + size * octet);
    }
    if (first + v < size_t(num_vectors)) codes[first * num_words + i] = packed;
  }
}

#endif
