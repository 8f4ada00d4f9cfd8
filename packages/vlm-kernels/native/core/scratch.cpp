#include "core/scratch.h"

#include <cstdlib>
#include <new>

namespace vlm {
namespace {

// Larger buffers go back to the system after use by the next smaller request.
constexpr size_t kKeep = size_t(32) << 20;

struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void* scratch(Slot slot, size_t bytes) {
  thread_local Buffer buffers[kNumSlots];
  Buffer& buffer = buffers[slot];
  if (buffer.size < bytes || (buffer.size > kKeep && bytes <= kKeep)) {
    std::free(buffer.data);
    buffer.size = (bytes + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(4096, buffer.size);
    if (buffer.data == nullptr) {
      buffer.size = 0;
      throw std::bad_alloc();
    }
  }
  return buffer.data;
}

}  // namespace vlm
