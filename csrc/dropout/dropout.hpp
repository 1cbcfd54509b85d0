// Dropout: every element kept or dropped by a draw of its own, which its place and a seed determine. Nothing is
// kept for the gradient but that seed.
#pragma once

#include "kernels.hpp"

namespace infinitypool {

class Dropout {
 public:
  // p in [0, 1]; draws below p * 2^32 drop.
  Dropout(DType dtype, double p, Mixture mixture);

  // n elements of dense memory. residual, which may be null, is added; out may be x or residual.
  void run(const void* x, const void* residual, void* out, Index n, std::uint64_t seed) const;
  // The same draws as numbers: factors[i] = scale or 0, and offsets[i], unless it is null, = kept or dropped.
  void factors(double* factors, double* offsets, Index n, std::uint64_t seed) const;

 private:
  DType dtype_;
  std::uint64_t threshold_;
  Mixture mixture_;
};

}  // namespace infinitypool
