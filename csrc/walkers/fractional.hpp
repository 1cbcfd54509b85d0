// Maxima over windows that start anywhere, at other places in every plane.
#pragma once

#include "pool.hpp"

namespace infinitypool {

struct FractionalArguments {
  DType dtype;
  Shape shape, in_strides, out_strides;
  std::vector<int> axes;  // ascending
  Shape kernel, out;      // per pooled axis
  Places places = Places::none;
};

class Fractional {
 public:
  explicit Fractional(const FractionalArguments& a);
  // starts: for every plane in C order, and every pooled axis, where its windows start. Both throw
  // std::invalid_argument where a window would reach beyond the input; then nothing was written.
  void run(const void* x, void* out, void* places, const Index* starts) const;
  // offsets and gradient strided as the output, the result as the input.
  void backward(const void* grad, const void* offsets, void* grad_in, const Index* starts) const;

 private:
  struct Axis { Index in, out, kernel, in_stride, out_stride, first_start; };
  template <class Visit>
  void each_output(const Index* starts, Visit visit) const;
  template <class A>
  void add_up(A* sums, const A* grad, const void* offsets, const Index* starts) const;
  Index at(Index plane, bool out) const;
  void check(const Index* starts) const;
  template <class Body>
  void each_plane(Body body) const;

  const GatheredKernels* kernels_;
  DType dtype_;
  std::vector<Axis> axes_;
  std::vector<Dim> outer_;
  Places places_;
  std::size_t place_size_ = 1;
  Index planes_ = 1, starts_ = 0, inputs_ = 1, outputs_ = 1, window_ = 1;
};

}  // namespace infinitypool
