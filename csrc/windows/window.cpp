#include "window.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <new>
#include <numeric>

namespace infinitypool {
namespace {

Index ceil_div(Index a, Index b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Windows that reach further are not held in memory from end to end if their taps are few.
constexpr Index kLongSpan = Index(1) << 16;

// A listed window takes some forty bytes: more of them along one axis are refused.
constexpr Index kMostListed = Index(1) << 24;

// Windows side by side and at least this long give their gradient to each element from one place.
constexpr Index kLongShare = 8;

// What a step of `parts` costs, in loads; its store and its loop count as two more.
Index step_cost(int parts) { return parts + 2; }

struct Builder {
  Chain chain;
  Weights weights = Weights::one;
  bool overlapping = false;
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
    if (weights == Weights::binomial) {  // Pascal's rule: two neighbours of the row before
      const int part = level(k - 1);
      chain.push_back({k, 2, {{part, 0}, {part, 1}}});
      return static_cast<int>(chain.size());
    }
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

Chain build_chain(Index kernel, Weights weights) {
  Builder builder;
  builder.weights = weights;
  builder.overlapping = weights == Weights::overlapping;
  if (builder.level(kernel) == 0) builder.chain.push_back({1, 1, {{0, 0}}});
  return std::move(builder.chain);
}

bool Axis::may_clip() const {
  if (irregular) return false;  // tables are written for the input they are used on
  return out > 0 && (before > 0 || start(out - 1) + span() > extent());
}

Window Axis::valid(Index o) const {
  if (irregular) return table[o];
  const Index first = start(o);
  const Index tap = first >= 0 ? 0 : ceil_div(-first, dilation);
  const Index end = std::min(kernel, ceil_div(std::max<Index>(in - first, 0), dilation));
  if (tap >= end) return {0, 0, 0};
  return {first + tap * dilation, end - tap, tap};
}

std::pair<Index, Index> Axis::readers(Index first, Index end) const {
  if (irregular) {
    const auto reads = [&](Index o) { return table[o].first + table[o].count > first; };
    Index low = 0, high = out - 1;
    for (Index step = out; step; step /= 2) {  // windows start and end in rising order
      while (low + step <= out && !reads(low + step - 1)) low += step;
      while (high - step >= 0 && start(high - step + 1) >= end) high -= step;
    }
    return {low, high};
  }
  return {std::max<Index>(0, floor_div(first + before - span(), stride) + 1),
          std::min(out - 1, floor_div(end - 1 + before, stride))};
}

void adapt(Axis& axis) {
  if (axis.in % axis.out == 0) {  // windows of equal length, side by side
    axis.kernel = axis.stride = axis.in / axis.out;
    return;
  }
  if (axis.out > kMostListed) throw std::bad_alloc();
  // o * in / out without its product, which may leave 64 bits.
  const Index quotient = axis.in / axis.out, rest = axis.in % axis.out;
  const auto scaled = [&](Index o, bool up) {
    const auto product = static_cast<unsigned __int128>(o) * static_cast<unsigned __int128>(rest);
    const auto fraction = (product + (up ? axis.out - 1 : 0)) / static_cast<unsigned __int128>(axis.out);
    return o * quotient + static_cast<Index>(fraction);
  };
  std::vector<Window> table(axis.out);
  for (Index o = 0; o < axis.out; ++o) {
    const Index first = scaled(o, false);
    table[o] = {first, scaled(o + 1, true) - first, 0};
  }
  axis.kernel = quotient + (axis.out % rest == 0 ? 1 : 2);
  axis.irregular = true;
  list(axis, std::move(table), 1);
}

void place(Axis& axis, const Index* starts) {
  std::vector<Window> table(axis.out);
  const Index room = axis.in - axis.kernel;
  for (Index o = 0; o < axis.out; ++o)
    table[o] = {starts ? starts[o] : static_cast<Index>(static_cast<double>(o) / axis.out * room), axis.kernel, 0};
  axis.irregular = axis.per_plane = true;
  list(axis, std::move(table), 1);
}

void count_elements(Axis& axis, bool include_padding) {
  axis.count.resize(axis.out);
  for (Index o = 0; o < axis.out; ++o) {
    Index n = axis.valid(o).count;
    if (include_padding && !axis.irregular)
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

void prepare(Axis& axis, Weights weights) {
  const bool outside = axis.span() > 2 * axis.in + 64;
  const bool scattered = axis.dilation > 64 && axis.span() > kLongSpan;
  const bool endless = axis.span() > kLongSpan && axis.stride >= axis.span() / 2;
  if (axis.spacing == 1 && (outside || scattered || endless) && weights != Weights::binomial) {
    std::vector<Window> table(axis.out);
    for (Index o = 0; o < axis.out; ++o) table[o] = axis.valid(o);
    list(axis, std::move(table), axis.dilation);
  } else {
    axis.chain = build_chain(axis.kernel, weights);
  }
}

Axis transpose(const Axis& axis, bool innermost, Weights weights) {
  Axis back;
  back.in = axis.out;
  back.out = axis.in;
  back.kernel = axis.kernel;
  back.dilation = axis.dilation;
  back.before = axis.span() - 1 - axis.before;
  back.count = axis.count;  // what the gradient is divided by, per input of this axis
  back.constant_count = axis.constant_count;
  back.spacing = innermost || weights == Weights::binomial ? axis.stride : 1;
  const bool apart = axis.stride >= axis.span() && axis.kernel >= kLongShare;  // one reader for many inputs
  if (weights == Weights::binomial ||
      (!axis.irregular && (innermost || axis.stride == 1) && !apart && back.span() <= 2 * back.extent() + 64)) {
    back.chain = build_chain(back.kernel, weights);
    return back;
  }

  if (axis.irregular) {  // starts and ends rise, so the readers of an input are a run
    std::vector<Window> readers(axis.in, Window{0, 0, 0});
    Index first = 0, end = 0;
    for (Index i = 0; i < axis.in; ++i) {
      while (end < axis.out && axis.table[end].first <= i) ++end;
      while (first < end && axis.table[first].first + axis.table[first].count <= i) ++first;
      readers[i] = {first, end - first, 0};
    }
    back.spacing = 1;
    list(back, std::move(readers), 1);
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
