// (reducer, dtype, variant) → the loops of the best instruction set.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "gathered.hpp"

namespace infinitypool {

const std::vector<ReducerInfo>& reducers();
int reducer_from(const std::string& name);  // throws std::invalid_argument

// The instruction sets that this processor runs, best last.
std::vector<std::string> available_isas();

// Chosen once; INFINITYPOOL_ISA pins one. Throws std::runtime_error for a set that is not available.
const IsaTable& isa();

// The one of that set. Where there is none, the first.
template <class Table>
const Table& of_isa(std::initializer_list<const Table*> tables) {
  for (const Table* table : tables)
    if (std::string_view(table->name) == isa().name) return *table;
  return **tables.begin();
}

}  // namespace infinitypool
