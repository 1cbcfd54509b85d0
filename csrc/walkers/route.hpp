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
  std::vector<Axis> axes_;  // forward windows; in_stride is the input gradient's
  Layout layout_;           // tensors: gradient, offsets, input gradient
  const Kernels* kernels_;
  const IsaTable* isa_;
  std::size_t offset_size_;
  Index window_, elements_;
  bool scatters_, stream_;
};

}  // namespace infinitypool
