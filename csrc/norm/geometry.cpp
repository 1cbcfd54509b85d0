#include <algorithm>
#include <stdexcept>
#include <unordered_map>

#include "norm.hpp"

namespace infinitypool {
namespace {

// Runs shorter than this are taken as columns where there are rows to add up.
constexpr Index kShortRun = 512;
constexpr Index kLeastColumns = 64, kMostColumns = 4096;
constexpr Index kLeastRows = 4;

bool follows(const NormDim& outer, const NormDim& inner) {  // in memory
  return outer.x == inner.x * inner.size && outer.out == inner.out * inner.size &&
         outer.other == inner.other * inner.size;
}

// The two as one axis.
bool join(NormDim& outer, const NormDim& inner) {
  if (!follows(outer, inner) || outer.region != inner.region * inner.size ||
      outer.parameter != inner.parameter * inner.size)
    return false;
  const Index size = outer.size * inner.size;
  outer = inner;
  outer.size = size;
  return true;
}

void join_all(std::vector<NormDim>& dims) {
  std::vector<NormDim> joined;
  for (const NormDim& d : dims)
    if (d.size > 1 && (joined.empty() || !join(joined.back(), d))) joined.push_back(d);
  dims = std::move(joined);
}

Index count(const std::vector<NormDim>& dims) {
  Index n = 1;
  for (const NormDim& d : dims) n *= d.size;
  return n;
}

bool reduced(const NormDim& d) { return d.region == 0; }

// The outer part of an axis that is taken apart, and the inner.
std::pair<NormDim, NormDim> cut(const NormDim& d, Index inner_size) {
  NormDim inner = d, outer = d;
  inner.size = inner_size;
  outer.size = d.size / inner_size;
  outer.x *= inner_size, outer.out *= inner_size, outer.other *= inner_size;
  outer.region *= inner_size, outer.parameter *= inner_size;
  return {outer, inner};
}

Index largest_divisor(Index n, Index most) {
  for (Index d = std::min(n, most); d > 1; --d)
    if (n % d == 0) return d;
  return 1;
}

bool holds_regions(const std::vector<NormDim>& dims, std::size_t first) {
  return std::any_of(dims.begin() + std::ptrdiff_t(first), dims.end(), [](const NormDim& d) { return !reduced(d); });
}

Index rows_of(const std::vector<NormDim>& dims, std::size_t end) {  // what is added up outside of the run
  Index rows = 1;
  for (std::size_t i = 0; i < end; ++i)
    if (reduced(dims[i])) rows *= dims[i].size;
  return rows;
}

// Where the run starts that the last axes make, in whole or in part, until it has enough columns and regions.
std::size_t widen(std::vector<NormDim>& dims) {
  std::size_t first = dims.size() - 1;
  Index size = dims[first].size;
  bool regions = !reduced(dims[first]);
  if (size > 2 * kMostColumns) {  // groups of columns
    const Index part = largest_divisor(size, kMostColumns);
    if (part < kLeastColumns) return first;
    const auto [outer, inner] = cut(dims[first], part);
    dims[first] = outer;
    dims.push_back(inner);
    return first + 1;
  }
  while (first > 0 && (size < kLeastColumns || !regions) && follows(dims[first - 1], dims[first])) {
    const NormDim next = dims[first - 1];
    const Index most = std::max<Index>(1, (regions ? 4 * kLeastColumns : kMostColumns) / size);
    const Index part = next.size <= most ? next.size : largest_divisor(next.size, most);
    if (part == 1) break;
    regions |= !reduced(next);
    size *= part;
    if (part < next.size) {
      const auto [outer, inner] = cut(next, part);
      dims[first - 1] = outer;
      dims.insert(dims.begin() + std::ptrdiff_t(first), inner);
      break;
    }
    --first;
  }
  return first;
}

}  // namespace

NormPlace place_of(const std::vector<NormDim>& dims, Index number) {
  NormPlace p;
  for (std::size_t i = dims.size(); i-- > 0;) {
    const NormDim& d = dims[i];
    const Index at = i ? number % d.size : number;
    number /= d.size;
    p.x += at * d.x, p.out += at * d.out, p.other += at * d.other;
    p.region += at * d.region, p.parameter += at * d.parameter;
  }
  return p;
}

NormGeometry::NormGeometry(const NormArguments& a) {
  const std::size_t n = a.sizes.size();
  for (const Shape* s : {&a.x_strides, &a.out_strides, &a.other_strides, &a.regions, &a.parameters})
    if (s->size() != n) throw std::invalid_argument("one step per axis is needed");
  std::vector<NormDim> dims;
  for (std::size_t i = 0; i < n; ++i) {
    if (a.sizes[i] < 1) throw std::invalid_argument("axes must not be empty");
    if (a.regions[i] < 0 || a.parameters[i] < 0) throw std::invalid_argument("steps must not be negative");
    if (a.sizes[i] == 1) continue;
    dims.push_back({a.sizes[i], a.x_strides[i], a.out_strides[i], a.other_strides[i], a.regions[i], a.parameters[i]});
  }
  std::stable_sort(dims.begin(), dims.end(),
                   [](const NormDim& d, const NormDim& e) { return std::abs(d.x) > std::abs(e.x); });
  for (std::size_t i = dims.size(); i-- > 0;) {  // parameters are brought into the order of x
    NormDim& d = dims[i];
    if (!reduced(d)) region_count *= d.size;
    else region_size *= d.size;
    if (!d.parameter) continue;
    parameter_order.insert(parameter_order.begin(), {.size = d.size, .parameter = d.parameter});
    d.parameter = parameter_count;
    parameter_count *= d.size;
  }
  join_all(dims);
  if (dims.empty()) dims.push_back({.size = 1, .x = 1, .out = 1, .other = 1});
  if (dims.back().x != 1) throw std::invalid_argument("x needs an axis of stride 1");

  const NormDim last = dims.back();
  // Short runs of one region each, beside one another, are columns, if rows are left to add up.
  std::size_t first = dims.size() - 1;  // of the run
  columns = !reduced(last);
  if (columns || last.size < kShortRun) {
    std::vector<NormDim> wide = dims;
    const std::size_t start = widen(wide);
    if (!columns) columns = holds_regions(wide, start) && rows_of(wide, start) >= kLeastRows;
    if (columns) dims = std::move(wide), first = start;
  }

  const std::vector<NormDim> inner(dims.begin() + std::ptrdiff_t(first), dims.end());
  run = count(inner);
  along = !columns && inner.back().parameter != 0;
  out_step = inner.back().out, other_step = inner.back().other;
  for (std::size_t i = 0; i < first; ++i) (reduced(dims[i]) ? rows : groups).push_back(dims[i]);
  group_count = count(groups), row_count = count(rows);
  if (columns) {
    if (std::any_of(rows.begin(), rows.end(), [](const NormDim& d) { return d.parameter != 0; }))
      throw std::invalid_argument("parameters change along axes outside of those of the regions");
    std::unordered_map<Index, Index> known;  // region to slot
    for (Index c = 0; c < run; ++c) {
      const NormPlace p = place_of(inner, c);
      if (!spans.empty()) {
        NormSpan& s = spans.back();
        const Index step = s.count == 1 ? p.parameter - s.parameter : s.parameter_step;
        if (p.region == s.region && (step == 0 || step == 1) && p.parameter == s.parameter + step * s.count) {
          ++s.count, s.parameter_step = step;
          continue;
        }
      }
      const auto [found, fresh] = known.try_emplace(p.region, Index(known.size()));
      if (fresh) slot_regions.push_back(p.region);
      const Index slot = found->second;
      spans.push_back({c, 1, p.region, p.parameter, 0, slot});
    }
  }
}

}  // namespace infinitypool
