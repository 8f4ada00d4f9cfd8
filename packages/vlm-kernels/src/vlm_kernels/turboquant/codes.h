// Packed words to codes. Common to CUDA and Metal; see packing.py for the layout.
#ifndef TURBOQUANT_CODES_H
#define TURBOQUANT_CODES_H

// The eight codes of octet `n` in eight nibbles, of the field of SIZE bits that starts at `field`.
template <int SIZE>
GPU_FUNCTION uint turboquant_field(const GPU_DEVICE uint* field, int n) {
  constexpr uint kMask = SIZE == 4 ? 0xffffffffu : SIZE == 2 ? 0x33333333u : 0x11111111u;
  return (field[n * SIZE / 4] >> uint(SIZE * (n % (4 / SIZE)))) & kMask;
}

// Octet `n` of one packed vector; code(j) is that of coordinate 8 n + j.
template <int BITS, int D>
struct TurboquantOctet {
  uint low, middle, high, top;

  GPU_FUNCTION void load(const GPU_DEVICE uint* row, int n) {
    constexpr int kFull = D / 8 * (BITS / 4), kHalf = BITS & 2 ? (D + 15) / 16 : 0;
    low = BITS >= 4 ? turboquant_field<4>(row, n) : 0;
    middle = BITS == 8 ? turboquant_field<4>(row + D / 8, n) : 0;
    high = BITS & 2 ? turboquant_field<2>(row + kFull, n) : 0;
    top = BITS & 1 ? turboquant_field<1>(row + kFull + kHalf, n) : 0;
  }

  GPU_FUNCTION uint code(int j) const {
    constexpr int kHigh = BITS >= 4 ? 4 : 0, kTop = kHigh + (BITS & 2);
    const uint shift = uint(4 * j);
    uint result = 0;
    if (BITS >= 4) result |= (low >> shift) & 15u;
    if (BITS == 8) result |= ((middle >> shift) & 15u) << 4;
    if (BITS & 2) result |= ((high >> shift) & 3u) << kHigh;
    if (BITS & 1) result |= ((top >> shift) & 1u) << kTop;
    return result;
  }
};

#endif
