// (reducer, dtype, variant) → the loops of the best instruction set.
#pragma once

#include <string>
#include <vector>

#include "gathered.hpp"

namespace infinitypool {

const std::vector<ReducerInfo>& reducers();
int reducer_from(const std::string& name);  // throws std::invalid_argument

// The instruction sets that this processor runs, best last.
std::vector<std::string> available_isas();

// Chosen once; INFINITYPOOL_ISA pins one. Throws std::runtime_error for a set that is not available.
const IsaTable& isa();

}  // namespace infinitypool
