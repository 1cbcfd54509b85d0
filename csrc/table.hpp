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

// Defines kind_isa(), the chosen one of a kind's tables.
#if defined(INFINITYPOOL_X86)
#define INFINITYPOOL_TABLE_OF_ISA(Table, kind)                                                          \
  extern const Table kind##_baseline, kind##_avx2, kind##_avx512;                                       \
  const Table& kind##_isa() {                                                                           \
    static const Table& chosen = of_isa<Table>({&kind##_baseline, &kind##_avx2, &kind##_avx512});       \
    return chosen;                                                                                      \
  }
#elif defined(INFINITYPOOL_ARM)
#define INFINITYPOOL_TABLE_OF_ISA(Table, kind)                                      \
  extern const Table kind##_baseline, kind##_neon;                                  \
  const Table& kind##_isa() {                                                       \
    static const Table& chosen = of_isa<Table>({&kind##_baseline, &kind##_neon});   \
    return chosen;                                                                  \
  }
#else
#define INFINITYPOOL_TABLE_OF_ISA(Table, kind)          \
  extern const Table kind##_baseline;                   \
  const Table& kind##_isa() { return kind##_baseline; }
#endif

}  // namespace infinitypool
