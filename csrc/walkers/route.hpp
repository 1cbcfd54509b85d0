// The gradient of maxima and minima: every output's gradient goes to its winner.
#pragma once

#include "pool.hpp"

namespace infinitypool {

class Route {
 public:
  explicit Route(const PoolArguments& a);
  void run(const void* grad, const void* offsets, void* grad_in) const;

 private:
  friend class RouteWorker;
  Index place_of(Index offset, const std::vector<Index>& step) const;

  std::vector<Axis> axes_;  // the forward windows
  Layout layout_;           // tensors: gradient, offsets, input gradient
  const Kernels* kernels_;
  const IsaTable* isa_;
  std::size_t offset_size_;
  bool compares_, stream_;
  Index window_, elements_, inner_block_;

  // The band of accumulators.
  Index band_, row_;                     // rows of the band, elements of a row
  Index line_phases_, phase_;            // runs that a line consists of, elements of each
  std::vector<Index> steps_;             // elements from one input to the next, per outer axis
  // Compare: where each line of a window starts and its first offset; the line's taps by phase.
  struct Row { Index start; std::uint64_t place; };
  std::vector<Row> rows_;
  std::vector<std::vector<Tap>> phases_;
  // Look up: where each tap lies from its window's start.
  std::vector<std::int32_t> delta_;
};

}  // namespace infinitypool
