#include "window.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

namespace infinitypool {
namespace {

Index ceil_div(Index a, Index b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Windows that reach further are not held in memory from end to end if their taps are few.
constexpr Index kLongSpan = Index(1) << 16;

// What a step of `parts` costs, in loads; its store and its loop count as two more.
Index step_cost(int parts) { return parts + 2; }

struct Builder {
  Chain chain;
  bool overlapping;
  struct Plan { Index cost; int parts; Index width; };
  std::map<Index, Plan> plans;

  // The cheapest last step: parts of equal width; a sum's may leave one element over.
  const Plan& plan(Index k) {
    if (const auto known = plans.find(k); known != plans.end()) return known->second;
    Plan best{std::numeric_limits<Index>::max(), 0, 0};
    for (int parts = 2; parts <= kTerms; ++parts) {
      if (parts > k) break;
      const Index width = overlapping ? (k + parts - 1) / parts : k / parts;
      const Index over = overlapping ? 0 : k - parts * width;
      if (over > 1 || parts + over > kTerms) continue;
      const Index cost = step_cost(parts + static_cast<int>(over)) + (width > 1 ? plan(width).cost : 0);
      if (cost < best.cost) best = {cost, parts, width};
    }
    return plans.emplace(k, best).first->second;
  }

  int level(Index k) {
    if (k == 1) return 0;
    const Plan chosen = plan(k);
    const int part = level(chosen.width);
    Step step{k, chosen.parts, {}};
    for (int j = 0; j < chosen.parts; ++j)
      step.parts[j] = {part, overlapping ? j * (k - chosen.width) / (chosen.parts - 1) : j * chosen.width};
    if (!overlapping && chosen.parts * chosen.width < k) step.parts[step.count++] = {0, k - 1};
    chain.push_back(step);
    return static_cast<int>(chain.size());
  }
};

}  // namespace

Chain build_chain(Index kernel, bool overlapping) {
  Builder builder{{}, overlapping, {}};
  if (builder.level(kernel) == 0) builder.chain.push_back({1, 1, {{0, 0}}});
  return std::move(builder.chain);
}

bool Axis::may_clip() const {
  return out > 0 && (before > 0 || start(out - 1) + span() > extent());
}

Window Axis::valid(Index o) const {
  const Index first = start(o);
  const Index tap = first >= 0 ? 0 : ceil_div(-first, dilation);
  const Index end = std::min(kernel, ceil_div(std::max<Index>(in - first, 0), dilation));
  if (tap >= end) return {0, 0, 0};
  return {first + tap * dilation, end - tap, tap};
}

void count_elements(Axis& axis, bool include_padding) {
  axis.count.resize(axis.out);
  for (Index o = 0; o < axis.out; ++o) {
    Index n = axis.valid(o).count;
    if (include_padding)
      n = std::clamp<Index>(ceil_div(axis.in + axis.after - axis.start(o), axis.dilation), 0, axis.kernel);
    axis.count[o] = static_cast<double>(n);
  }
  axis.constant_count = std::all_of(axis.count.begin(), axis.count.end(),
                                    [&](double n) { return n == axis.count[0]; });
}

void list(Axis& axis, std::vector<Window> table, Index step) {
  axis.table = std::move(table);
  axis.table_step = step;
  axis.table_floor.resize(axis.table.size());
  Index floor = axis.in;
  for (std::size_t o = axis.table.size(); o-- > 0;) {
    if (axis.table[o].count) floor = std::min(floor, axis.table[o].first);
    axis.table_floor[o] = floor;
  }
}

void prepare(Axis& axis, bool overlapping) {
  const bool outside = axis.span() > 2 * axis.in + 64;
  const bool scattered = axis.dilation > 64 && axis.span() > kLongSpan;
  if (axis.spacing == 1 && (outside || scattered)) {
    std::vector<Window> table(axis.out);
    for (Index o = 0; o < axis.out; ++o) table[o] = axis.valid(o);
    list(axis, std::move(table), axis.dilation);
  } else {
    axis.chain = build_chain(axis.kernel, overlapping);
  }
}

Axis transpose(const Axis& axis, bool innermost) {
  Axis back;
  back.in = axis.out;
  back.out = axis.in;
  back.kernel = axis.kernel;
  back.dilation = axis.dilation;
  back.before = axis.span() - 1 - axis.before;
  back.count = axis.count;  // what the gradient is divided by, per input of this axis
  back.constant_count = axis.constant_count;
  back.spacing = innermost ? axis.stride : 1;
  if ((innermost || axis.stride == 1) && back.span() <= 2 * back.extent() + 64) {
    back.chain = build_chain(back.kernel, false);
    return back;
  }

  // An input is read by every o with o * stride - before + tap * dilation == i for some tap.
  const Index step = axis.dilation / std::gcd(axis.stride, axis.dilation);
  std::vector<Window> readers(axis.in, Window{0, 0, 0});
  for (Index i = 0; i < axis.in; ++i) {
    const Index position = i + axis.before;
    const Index lowest = std::max<Index>(0, ceil_div(position - axis.span() + 1, axis.stride));
    const Index highest = std::min(axis.out - 1, floor_div(position, axis.stride));
    for (Index o = lowest; o <= highest && o < lowest + step; ++o)
      if ((position - o * axis.stride) % axis.dilation == 0) {
        readers[i] = {o, (highest - o) / step + 1, 0};
        break;
      }
  }
  back.spacing = 1;
  list(back, std::move(readers), step);
  return back;
}

}  // namespace infinitypool
