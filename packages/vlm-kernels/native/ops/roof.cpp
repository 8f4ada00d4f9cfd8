#include "ops/roof.h"

#include "simd/panel.h"

namespace vlm::VLM_ISA {
namespace {

constexpr size_t kReadBlock = size_t(1) << 20;
constexpr int kChains = 24;  // sums that do not wait for each other

float read_block(const char* data, size_t bytes) {
  F total[8] = {};
  size_t i = 0;
  for (; i + 8 * sizeof(F) <= bytes; i += 8 * sizeof(F)) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) total[j] += load(reinterpret_cast<const float*>(data + i) + j * W);
  }
  F all = F{};
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) all += total[j];
  return sum(all);
}

template <class Element>
float multiply_rounds(size_t rounds) {
  F total[kChains];
  volatile float start = 1e-30f;
  const F b = broadcast(start);
  const int32_t lane = bits_of(b)[0];
#pragma GCC unroll 24
  for (int j = 0; j < kChains; ++j) total[j] = broadcast(start * float(j));
  for (size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) total[j] = multiply_add<Element>(total[j], lane, b);
  }
  F all = F{};
#pragma GCC unroll 24
  for (int j = 0; j < kChains; ++j) all += total[j];
  return sum(all);
}

}  // namespace

void roof(const Roof& r) {
  const size_t blocks = r.kind == Roof::Kind::read ? r.bytes / kReadBlock : size_t(num_threads()) * 8;
  for_blocks(blocks, [&](size_t block) {
    float value = 0;
    if (r.kind == Roof::Kind::read) value = read_block(static_cast<const char*>(r.data) + block * kReadBlock, kReadBlock);
    else if (r.kind == Roof::Kind::multiply_bf16 && kPairs) value = multiply_rounds<uint16_t>(r.rounds);
    else value = multiply_rounds<float>(r.rounds);
    r.sink[block % 64 * 16] = value;  // a line of the cache for each
  });
  const bool pairs = r.kind == Roof::Kind::multiply_bf16 && kPairs;
  *r.work = r.kind == Roof::Kind::read ? double(blocks * kReadBlock) : double(blocks) * double(r.rounds) * kChains * W * (pairs ? 4 : 2);
}

}  // namespace vlm::VLM_ISA
