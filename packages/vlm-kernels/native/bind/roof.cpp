#include "ops/roof.h"

#include <chrono>
#include <cstdlib>
#include <vector>

#include "bind/kernel.h"

namespace vlm::bind {
namespace {

// Bytes or floating operations per second, the best of `repeats`, on all threads.
double measure(const std::string& kind, size_t size, int repeats) {
  Roof r;
  std::vector<float> data, sink(64 * 16);
  if (kind == "read") {
    r.kind = Roof::Kind::read;
    data.assign(size / 4, 1.0f);
    r.data = data.data(), r.bytes = size;
  } else if (kind == "float32") {
    r.kind = Roof::Kind::multiply_f32, r.rounds = size;
  } else if (kind == "bfloat16") {
    r.kind = Roof::Kind::multiply_bf16, r.rounds = size;
  } else {
    throw std::invalid_argument("roof: expected read, float32 or bfloat16");
  }
  double work = 0, best = 0;
  r.work = &work, r.sink = sink.data();
  nb::gil_scoped_release release;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    roof(r);
    best = std::max(best, work / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

VLM_BINDING(module) { module.def("roof", &measure, nb::arg("kind"), nb::arg("size"), nb::arg("repeats")); }

}  // namespace vlm::bind
