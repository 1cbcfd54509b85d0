#include "table.hpp"

#include <cstdlib>
#include <stdexcept>

namespace infinitypool {

extern const IsaTable table_baseline;
extern const GatheredTable gathered_baseline;  // whose reducers are everybody's
#if defined(INFINITYPOOL_X86)
extern const IsaTable table_avx2, table_avx512;
#elif defined(INFINITYPOOL_ARM)
extern const IsaTable table_neon;
#endif

namespace {

namespace described {  // the reducers' metadata; their arithmetic lives with the kernels
template <class A>
inline constexpr A lowest{};
template <class A>
inline constexpr A highest{};
template <class A>
bool is_nan(A x);
template <class A>
A wrapping_add(A a, A b);
template <class A>
void power_run(A* x, Index n, double p);
template <class A>
void signed_power_run(A* x, Index n, double p);
#include "reducers.inc"

template <class... R>
std::vector<ReducerInfo> describe() { return {R::info...}; }
}  // namespace described

std::vector<const IsaTable*> supported() {
  std::vector<const IsaTable*> list{&table_baseline};
#if defined(INFINITYPOOL_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    list.push_back(&table_avx2);
  if (list.size() == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    list.push_back(&table_avx512);
#elif defined(INFINITYPOOL_ARM)
  list.push_back(&table_neon);
#endif
  return list;
}

const IsaTable& choose() {
  const auto list = supported();
  const char* pinned = std::getenv("INFINITYPOOL_ISA");
  if (!pinned || !*pinned) return *list.back();
  std::string choices;
  for (const auto* table : list) {
    if (std::string(pinned) == table->name) return *table;
    choices += (choices.empty() ? "" : ", ") + std::string(table->name);
  }
  throw std::runtime_error("INFINITYPOOL_ISA=" + std::string(pinned) +
                           " is not available on this processor; choose one of: " + choices);
}

}  // namespace

const std::vector<ReducerInfo>& reducers() {
  using namespace described;
  static const std::vector<ReducerInfo> list = [] {
    auto all = describe<INFINITYPOOL_REDUCERS>();
    for (int i = 0; i < gathered_baseline.count; ++i) all.push_back(*gathered_baseline.infos[i]);
    return all;
  }();
  return list;
}

int reducer_from(const std::string& name) {
  for (std::size_t i = 0; i < reducers().size(); ++i)
    if (name == reducers()[i].name) return static_cast<int>(i);
  throw std::invalid_argument("unknown reducer '" + name + "'");
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const auto* table : supported()) names.emplace_back(table->name);
  return names;
}

const IsaTable& isa() {
  static const IsaTable& chosen = choose();
  return chosen;
}

INFINITYPOOL_TABLE_OF_ISA(GatheredTable, gathered)

namespace {
constexpr const char* kNames[kDTypes] = {"float64", "float32", "float16", "bfloat16", "int8",   "int16", "int32",
                                         "int64",   "uint8",   "uint16",  "uint32",   "uint64", "bool"};
}

const char* name_of(DType d) { return kNames[static_cast<int>(d)]; }

DType dtype_from(const char* name) {
  for (int i = 0; i < kDTypes; ++i)
    if (std::string(name) == kNames[i]) return static_cast<DType>(i);
  throw std::invalid_argument("unknown dtype '" + std::string(name) + "'");
}

}  // namespace infinitypool
