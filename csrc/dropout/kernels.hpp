// What dropout may call: draws, and the loops that use them, compiled once per instruction set.
#pragma once

#include "../types.hpp"

namespace infinitypool {

// Elements whose draws come from sixteen counters: element 16 h + lane of a superblock is half h (low, high of
// words 0, 1, 2, 3) of counter 16 s + lane.
inline constexpr Index kSuperblock = 128;

// x * scale + kept, or x * 0 + dropped.
struct Mixture {
  double scale = 1, kept = 0, dropped = 0;
  bool shifts() const { return kept != 0 || dropped != 0; }
};

// out[i] = the mixture of x[i] (+ residual[i], which may be null). out may be x or residual.
using MixLoop = void (*)(void* out, const void* x, const void* residual, const std::uint32_t* keep, Index n,
                         const Mixture& mixture);

struct DropoutTable {
  const char* name;
  // keep[i] = all bits set, or none where element i of `count` superblocks from the first-th on is dropped: where
  // its 32-bit draw lies below the threshold, which is at most 2^32.
  void (*draw)(std::uint32_t* keep, std::uint64_t first, Index count, std::uint64_t threshold, std::uint64_t seed);
  MixLoop mix[4];  // of float64, float32, float16, bfloat16
};

const DropoutTable& dropout_isa();  // of the instruction set that isa() chose

}  // namespace infinitypool
