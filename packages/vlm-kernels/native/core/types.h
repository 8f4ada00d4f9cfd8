// Element types and matrices as the kernels see them: plain pointers, no MLX.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vlm {

enum class Type : uint8_t { f32, f16, bf16 };

inline size_t size_of(Type type) { return type == Type::f32 ? 4 : 2; }

enum class Mode : uint8_t { affine, mxfp4, mxfp8, nvfp4 };

// A matrix whose rows are contiguous: dense, or packed by mx.quantize in groups along a row.
struct Matrix {
  bool quantized = false;
  const void* data = nullptr;
  size_t stride = 0;  // from row to row: elements when dense, bytes when quantized
  Type type = Type::f32;  // of the elements, or of scales and biases when affine
  // What follows is for quantized matrices alone.
  const uint8_t* end = nullptr;  // one past the last byte of the buffer: vector loads stay below it
  const void* scales = nullptr;
  const void* biases = nullptr;
  size_t groups = 0;  // in a row
  int group_size = 0;
  int bits = 0;
  Mode mode = Mode::affine;
};

}  // namespace vlm
