// Packed vectors to float16, still rotated: one thread an octet of coordinates.
#ifndef TURBOQUANT_UNPACK_CU
#define TURBOQUANT_UNPACK_CU

// The eight codes of octet `n` in eight nibbles, of the field of SIZE bits that starts at `field`.
template <int SIZE>
__device__ __forceinline__ uint32_t turboquant_field(const uint32_t* field, int n) {
  constexpr uint32_t kMask = SIZE == 4 ? 0xffffffffu : SIZE == 2 ? 0x33333333u : 0x11111111u;
  return field[n * SIZE / 4] >> (SIZE * (n % (4 / SIZE))) & kMask;
}

template <int BITS, int D, typename T>
__device__ __forceinline__ void turboquant_unpack(const uint32_t* __restrict__ row, int n, float factor,
                                                  const float* centroids, T* __restrict__ out) {
  constexpr int kFull = D / 8 * (BITS / 4), kHalf = BITS & 2 ? (D + 15) / 16 : 0;
  uint32_t low = 0, middle = 0, high = 0, top = 0;
  if (BITS >= 4) low = turboquant_field<4>(row, n);
  if (BITS == 8) middle = turboquant_field<4>(row + D / 8, n);
  if (BITS & 2) high = turboquant_field<2>(row + kFull, n);
  if (BITS & 1) top = turboquant_field<1>(row + kFull + kHalf, n);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    constexpr int kMiddle = BITS >= 4 ? 4 : 0, kTop = kMiddle + (BITS & 2);
    uint32_t code = (low >> (4 * j) & 15) | (middle >> (4 * j) & 15) << 4 | (high >> (4 * j) & 3) << kMiddle |
                    (top >> (4 * j) & 1) << kTop;
    out[j] = T(centroids[code] * factor);
  }
}

#endif
