// Runs a GPU grid on one CPU thread: every GPU thread is a fiber, and a fiber that reaches a barrier or a SIMD-group
// operation yields until the others have arrived. Knows groups, barriers, exchanges and buffers; not the dialect of a kernel.
//
// What would be undefined on a GPU is an error here: threads of a group that wait at different operations, a group that
// overruns its shared memory, and an access outside a buffer (buffers end at a guard page).
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <math.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace emulate {

struct Index3 {
  uint32_t x, y, z;
};

constexpr int kSimdSize = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kSlotBytes = 64;

enum class Wait : uint8_t { kNone, kSimd, kGroup };

struct Fiber {
  ucontext_t context;
  Index3 position;  // in the group
  int index = 0;    // linear
  bool finished = false;
  Wait wait = Wait::kNone;
  const char* operation = "";
  uint32_t simd_count = 0;
};

struct State {
  Index3 grid, group, group_index;
  std::vector<Fiber> fibers;
  std::vector<uint8_t> stacks, shared, slots;  // slots: [2][threads][kSlotBytes]
  size_t shared_limit = 0, shared_used = 0;
  std::vector<size_t> shared_offsets;
  ucontext_t scheduler;
  Fiber* current = nullptr;
  void (*body)() = nullptr;
  char error[512] = "";
  sigjmp_buf fault;
};

inline State& state() {
  static State instance;
  return instance;
}

inline void yield() {
  State& s = state();
  swapcontext(&s.current->context, &s.scheduler);
}

[[noreturn]] inline void fail(const char* message) {
  State& s = state();
  snprintf(s.error, sizeof s.error, "thread (%u, %u, %u) of group (%u, %u, %u): %s", s.current->position.x,
           s.current->position.y, s.current->position.z, s.group_index.x, s.group_index.y, s.group_index.z, message);
  setcontext(&s.scheduler);
  __builtin_unreachable();
}

// All lanes of a SIMD group hand in a value; afterwards each may read every lane's.
template <typename T>
struct Exchange {
  const uint8_t* slots;
  T operator[](int lane) const {
    T value;
    std::memcpy(&value, slots + lane * kSlotBytes, sizeof value);
    return value;
  }
};

template <typename T>
Exchange<T> exchange(const T& value, const char* operation) {
  static_assert(sizeof(T) <= kSlotBytes, "the value of one lane is too large");
  State& s = state();
  Fiber& me = *s.current;
  // Two banks: a lane reaches the next exchange but one only after every lane has left this one.
  size_t bank = (me.simd_count++ & 1) * s.fibers.size();
  size_t first = me.index / kSimdSize * kSimdSize;
  std::memcpy(&s.slots[(bank + me.index) * kSlotBytes], &value, sizeof value);
  me.wait = Wait::kSimd;
  me.operation = operation;
  yield();
  return {&s.slots[(bank + first) * kSlotBytes]};
}

inline int lane() { return state().current->index % kSimdSize; }

inline void barrier() {
  Fiber& me = *state().current;
  me.wait = Wait::kGroup;
  me.operation = "threadgroup barrier";
  yield();
}

// Shared memory of the group, one block per declaration, filled with NaN patterns when a group starts.
inline void* shared(size_t bytes, size_t declaration) {
  State& s = state();
  if (s.shared_offsets.size() <= declaration) s.shared_offsets.resize(declaration + 1, SIZE_MAX);
  if (s.shared_offsets[declaration] == SIZE_MAX) {
    size_t offset = (s.shared_used + 15) / 16 * 16;
    if (offset + bytes > s.shared_limit) fail("shared memory of the group exceeds its limit");
    s.shared_offsets[declaration] = offset;
    s.shared_used = offset + bytes;
  }
  return &s.shared[s.shared_offsets[declaration]];
}

inline bool release_simd(State& s, size_t first) {
  size_t last = std::min(first + kSimdSize, s.fibers.size());
  const char* operation = nullptr;
  for (size_t i = first; i < last; ++i) {
    if (s.fibers[i].wait != Wait::kSimd || s.fibers[i].finished) return false;
    if (operation && std::strcmp(operation, s.fibers[i].operation)) return false;
    operation = s.fibers[i].operation;
  }
  for (size_t i = first; i < last; ++i) s.fibers[i].wait = Wait::kNone;
  return true;
}

inline bool release_group(State& s) {
  for (Fiber& fiber : s.fibers) {
    if (fiber.finished || fiber.wait != Wait::kGroup) return false;
  }
  for (Fiber& fiber : s.fibers) fiber.wait = Wait::kNone;
  return true;
}

inline void enter() {
  state().body();
  state().current->finished = true;
  setcontext(&state().scheduler);
}

inline bool run_group(State& s) {
  std::memset(s.shared.data(), 0xff, s.shared.size());
  s.shared_offsets.clear();
  s.shared_used = 0;
  for (size_t i = 0; i < s.fibers.size(); ++i) {
    Fiber& fiber = s.fibers[i];
    fiber = Fiber{};
    fiber.index = int(i);
    fiber.position = {uint32_t(i % s.group.x), uint32_t(i / s.group.x % s.group.y), uint32_t(i / s.group.x / s.group.y)};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = &s.stacks[i * kStackBytes];
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = &s.scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  for (;;) {
    bool progress = false, unfinished = false;
    for (size_t i = 0; i < s.fibers.size(); ++i) {
      if (i % kSimdSize == 0) progress |= release_simd(s, i);
      Fiber& fiber = s.fibers[i];
      if (fiber.finished) continue;
      unfinished = true;
      if (fiber.wait != Wait::kNone) continue;
      progress = true;
      s.current = &fiber;
      swapcontext(&s.scheduler, &fiber.context);
      if (s.error[0]) return false;
    }
    if (!unfinished) return true;
    progress |= release_group(s);
    if (!progress) {
      const Fiber* stuck = nullptr;
      const Fiber* other = nullptr;
      for (const Fiber& fiber : s.fibers) {
        if (!fiber.finished && !stuck) stuck = &fiber;
        if (stuck && (fiber.finished || std::strcmp(fiber.operation, stuck->operation))) other = &fiber;
      }
      snprintf(s.error, sizeof s.error,
               "group (%u, %u, %u): threads diverge: thread %d waits at '%s', thread %d %s%s", s.group_index.x,
               s.group_index.y, s.group_index.z, stuck->index, stuck->operation, other ? other->index : -1,
               !other ? "is missing" : other->finished ? "has finished" : "waits at ",
               other && !other->finished ? other->operation : "");
      return false;
    }
  }
}

inline void on_fault(int, siginfo_t* info, void*) {
  State& s = state();
  snprintf(s.error, sizeof s.error, "thread %d of group (%u, %u, %u): access outside a buffer", s.current ? s.current->index : -1,
           s.group_index.x, s.group_index.y, s.group_index.z);
  (void)info;
  siglongjmp(s.fault, 1);
}

template <typename To, typename From>
To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

struct Bfloat {
  uint16_t bits;
  Bfloat() = default;
  explicit Bfloat(float value) {
    uint32_t wide = bit_cast<uint32_t>(value);
    bits = uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  }
  operator float() const { return bit_cast<float>(uint32_t(bits) << 16); }
};

// IEEE half precision in software: compilers without _Float16 are common.
struct Half {
  uint16_t bits;
  Half() = default;
  explicit Half(float value) {
    uint32_t wide = bit_cast<uint32_t>(value), sign = wide >> 16 & 0x8000, magnitude = wide & 0x7fffffff;
    if (magnitude >= 0x47800000) {
      bits = uint16_t(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00));
    } else if (magnitude < 0x38800000) {
      // Adding 0.5 lets the float unit round to the subnormal grid of 2^-24.
      bits = uint16_t(sign | (bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000));
    } else {
      bits = uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
    }
  }
  operator float() const {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    if (magnitude < 0x400) return bit_cast<float>(sign | bit_cast<uint32_t>(float(magnitude) * 0x1p-24f));
    return bit_cast<float>(sign | (magnitude >= 0x7c00 ? 0x7f800000 | magnitude << 13 : (magnitude << 13) + 0x38000000));
  }
};

// A copy of host data that ends where inaccessible memory begins.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    payload_ = (bytes + kPage) / kPage * kPage;
    void* base = mmap(nullptr, payload_ + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(base);
    mprotect(base_ + kGuard, payload_, PROT_READ | PROT_WRITE);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { munmap(base_, payload_ + 2 * kGuard); }
  // Kernels may load 16 bytes at once, so the start is aligned to 16 and up to 15 bytes lie before the guard.
  void* data() { return base_ + kGuard + (payload_ - bytes_) / 16 * 16; }

 private:
  // Wide enough that a wrong index lands in it and not in the process's own memory.
  static constexpr size_t kPage = 4096, kGuard = size_t(256) << 20;
  size_t bytes_, payload_;
  uint8_t* base_;
};

// Runs every group of the grid. Returns nullptr or the error.
inline const char* launch(void (*body)(), Index3 num_groups, Index3 group, size_t shared_limit) {
  State& s = state();
  size_t threads = size_t(group.x) * group.y * group.z;
  s.error[0] = 0;
  s.grid = num_groups;
  s.group = group;
  s.body = body;
  s.shared_limit = shared_limit;
  s.shared.assign(shared_limit, 0);
  s.fibers.assign(threads, Fiber{});
  s.stacks.resize(threads * kStackBytes);
  s.slots.assign(2 * (threads + kSimdSize) * kSlotBytes, 0);
  struct sigaction action{}, old_segv{}, old_bus{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &old_segv);
  sigaction(SIGBUS, &action, &old_bus);
  if (sigsetjmp(s.fault, 1) == 0) {
    bool ok = true;
    for (uint32_t z = 0; ok && z < num_groups.z; ++z)
      for (uint32_t y = 0; ok && y < num_groups.y; ++y)
        for (uint32_t x = 0; ok && x < num_groups.x; ++x) {
          s.group_index = {x, y, z};
          ok = run_group(s);
        }
  }
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  return s.error[0] ? s.error : nullptr;
}

}  // namespace emulate
