// A walk for a few small planes that lie together: every axis is pooled at once, window by window.
//
// The walker's bookkeeping for each plane, line and block takes longer than the work on a small tensor. Its results
// are the walker's, bit by bit: windows are merged in the same order.
#pragma once

#include <vector>

#include "../kernels.hpp"
#include "layout.hpp"

namespace infinitypool {

struct SmallAxis {
  std::vector<Window> windows;  // of all lines, one behind another; none where they tile the lines
  Index count = 0;              // of windows
  int taps = 0;                 // of every window, where they tile the lines, and how far they are apart
  Index stride = 1;
  Index step = 1;               // columns from one tap to the next
  Index inner = 1;              // elements of a column: the results of later axes
  std::uint64_t tap_place = 0;
};

struct SmallWalk {
  std::vector<SmallAxis> axes;    // in the order of the walk, the last axis first
  std::vector<double> divisors;   // for every column of results, if they are divided
  std::vector<Index> starts;      // the position of every column's window in its plane, if it is asked for
  Index inputs = 0, inner = 1;
  bool truncate = false, few = false;

  // values of columns * inner results; places, if given, in place_bytes each.
  void run(const Kernels& k, const void* in, void* out, void* places, std::size_t place_bytes) const;

 private:
  void pool(const Kernels& k, const SmallAxis& axis, bool first, Line from, Line to, Line spare) const;
};

}  // namespace infinitypool
