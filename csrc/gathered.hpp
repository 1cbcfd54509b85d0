// What the gathered walker may call: loops over many windows side by side, one set for each
// (reducer, input dtype), compiled once per instruction set.
#pragma once

#include "kernels.hpp"

namespace infinitypool {

// A comparison of a sorting network: `low` gets the smaller, `high` the larger element.
struct Exchange {
  std::uint16_t low, high;
};
inline constexpr Index kNetwork = 256;   // windows of more elements are not sorted by a network
inline constexpr Index kWindowsAtATime = 256;

// n windows of `count` elements each: tap[j][i] is the j-th element of window i, in row order. Of a
// gradient, also their results and what goes into them; every tap's sums are added to.
struct Windows {
  const void* const* tap;
  Index count, n;
  const double* draw = nullptr;        // a number of [0, 1) each, for reducers that draw
  const Exchange* network = nullptr;   // sorts the ranks that are asked for; null for large windows
  Index exchanges = 0;
  Index columns = 0;    // not 0: tap j is tap j - 1, one element on, except where a row of so many taps starts
  void* result = nullptr;
  std::uint32_t* chosen = nullptr;     // which element was taken; null where nobody asks
  const void* grad = nullptr;
  void* const* sum = nullptr;
};

struct GatheredKernels {
  std::size_t in_size = 0, acc_size = 0;
  bool direct = false;  // accumulators and elements have the same representation
  bool draws = false;
  bool slides = false;  // reduces windows of any size where each is the one before, one element on
  void (*load)(void* dst, Index dst_pitch, const void* src, Runs runs) = nullptr;
  bool (*any_nan)(const void* run, Index n) = nullptr;  // null for integers
  void (*reduce)(const Windows& w, const Parameters& p) = nullptr;
  // One window of contiguous elements, with room for a copy; null where `reduce` is as good.
  void (*reduce_one)(const void* window, void* room, Index count, void* result, std::uint32_t* chosen,
                     const Parameters& p) = nullptr;
  void (*empty)(void* result, const Parameters& p) = nullptr;  // of a window without elements
  void (*finish)(void* dst, const void* src, Index n) = nullptr;
  // The ranks that a network has to put in place; null where none is needed.
  void (*ranks)(Index count, const Parameters& p, Index* low, Index* high) = nullptr;
  void (*share)(const Windows& w, const Parameters& p) = nullptr;  // the gradient, added to the sums
};

struct GatheredTable {
  const char* name;
  const ReducerInfo* const* infos;  // of the gathered reducers
  int count;
  const GatheredKernels* (*find)(const char* reducer, DType in);   // null where there is none
  const GatheredKernels* (*gradient)(const char* reducer, DType in);
  // draws[i] = a number of [0, 1) for output first + i * step under this seed.
  void (*draw)(double* draws, Index n, std::uint64_t first, std::uint64_t step, std::uint64_t seed);
};

const GatheredTable& gathered_isa();  // of the instruction set that isa() chose

}  // namespace infinitypool
