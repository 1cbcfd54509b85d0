// What bindings make of the arguments that pooling plans share.
#pragma once

#include <vector>

#include "walkers/pool.hpp"

namespace infinitypool {

// (kernel_size, stride, padding_before, padding_after, dilation, output_size), or (output_size,) for the
// windows of adaptive pooling.
std::vector<WindowArguments> windows_from(const std::vector<Shape>& windows);
Parameters parameters_from(const std::vector<double>& values);
void check_lengths(const PoolArguments& a);

}  // namespace infinitypool
