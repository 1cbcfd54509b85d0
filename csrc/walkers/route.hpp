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
  std::vector<Axis> axes_;  // the forward windows
  std::vector<Readers> readers_;
  // The line's taps by the phase of its stride: how many outputs back, which tap.
  struct LineTap { Index back, tap; };
  std::vector<std::vector<LineTap>> phases_;
  Layout layout_;           // tensors: gradient, offsets, input gradient
  const Kernels* kernels_;
  const IsaTable* isa_;
  std::size_t offset_size_;
  bool compares_, stream_;
  Index window_, elements_, inner_block_;
  Index row_ = 0, band_ = 0;   // look-up: accumulators of a row, rows of a band
  std::vector<std::int32_t> delta_;   // look-up: where each tap lies from its window's start
};

}  // namespace infinitypool
