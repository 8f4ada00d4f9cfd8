// A pool of threads that share out blocks of work.
//
// The caller starts on its own job at once and workers join by claiming blocks, so a busy or absent worker delays nobody.
// Several threads may call `parallel` at the same time, and a forked child starts workers of its own.
#pragma once

#include <cstddef>

namespace vlm {

// Runs body(context, 0) ... body(context, count - 1), each once, in any order; returns when all have ended.
// Everything the blocks wrote is visible to the caller afterwards. `body` must not throw and must not call `parallel`.
void parallel(size_t count, void (*body)(void* context, size_t block), void* context);

// Threads that take part, the caller included. By default the cores this process may use.
int num_threads();
void set_num_threads(int count);

// Cores by affinity and by the cgroup's quota, at least 1.
int usable_cores();

}  // namespace vlm
