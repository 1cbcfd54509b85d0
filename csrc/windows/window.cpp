#include "window.hpp"

#include <algorithm>
#include <numeric>

namespace infinitypool {
namespace {

Index ceil_div(Index a, Index b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Windows that reach further are not held in memory from end to end if their taps are few.
constexpr Index kLongSpan = Index(1) << 16;

int passes(Index kernel) {  // with three parts a step
  int n = 0;
  for (Index width = 1; width < kernel; width *= 3) ++n;
  return n;
}

struct Builder {
  Chain chain;
  bool overlapping;

  int emit(Index width, std::initializer_list<Step::Part> parts) {
    Step step{width, static_cast<int>(parts.size()), {}};
    std::copy(parts.begin(), parts.end(), step.parts);
    chain.push_back(step);
    return static_cast<int>(chain.size());
  }

  int level(Index k) {
    if (k == 1) return 0;
    if (k == 2) return emit(2, {{0, 0}, {0, 1}});
    if (k == 3) return emit(3, {{0, 0}, {0, 1}, {0, 2}});
    if (overlapping) {
      const Index half = (k + 1) / 2, third = (k + 2) / 3;
      if (passes(third) < passes(half)) {
        const int part = level(third);
        return emit(k, {{part, 0}, {part, (k - third) / 2}, {part, k - third}});
      }
      const int part = level(half);
      return emit(k, {{part, 0}, {part, k - half}});
    }
    if (k % 3 == 0) {
      const int part = level(k / 3);
      return emit(k, {{part, 0}, {part, k / 3}, {part, 2 * (k / 3)}});
    }
    const Index half = k / 2;
    const int part = level(half);
    if (k % 2 == 0) return emit(k, {{part, 0}, {part, half}});
    return emit(k, {{part, 0}, {part, half}, {0, 2 * half}});
  }
};

}  // namespace

Chain build_chain(Index kernel, bool overlapping) {
  Builder builder{{}, overlapping};
  if (builder.level(kernel) == 0) builder.emit(1, {{0, 0}});
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

  Readers readers = readers_of(axis);
  back.spacing = 1;
  list(back, std::move(readers.table), readers.step);
  return back;
}

Readers readers_of(const Axis& axis) {
  const Index common = std::gcd(axis.stride, axis.dilation);
  Readers readers{std::vector<Window>(axis.in, Window{0, 0, 0}), axis.dilation / common, axis.stride / common};
  // o * stride - before + tap * dilation == i: taps fall as outputs rise.
  for (Index i = 0; i < axis.in; ++i) {
    const Index position = i + axis.before;
    const Index lowest = std::max<Index>(0, ceil_div(position - axis.span() + 1, axis.stride));
    const Index highest = std::min(axis.out - 1, floor_div(position, axis.stride));
    for (Index o = lowest; o <= highest && o < lowest + readers.step; ++o)
      if ((position - o * axis.stride) % axis.dilation == 0) {
        readers.table[i] = {o, (highest - o) / readers.step + 1, (position - o * axis.stride) / axis.dilation};
        break;
      }
  }
  return readers;
}

}  // namespace infinitypool
