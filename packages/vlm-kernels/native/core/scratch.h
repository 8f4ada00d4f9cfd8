// Buffers that a thread keeps between calls.
#pragma once

#include <cstddef>

namespace vlm {

// Slots: what a caller shares with the blocks of its job, and what a block uses alone. A block may run on the caller's thread, so the
// two never share a slot.
enum Slot { kShared, kShared2, kShared3, kBlock, kBlock2, kBlock3, kBlock4, kNumSlots };

// At least `bytes`, aligned to 64, contents undefined; valid until this thread asks for the same slot again.
void* scratch(Slot slot, size_t bytes);

template <class T>
T* scratch_of(Slot slot, size_t count) {
  return static_cast<T*>(scratch(slot, count * sizeof(T)));
}

}  // namespace vlm
