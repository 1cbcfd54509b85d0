// The lines of inputs that whole windows are taken from.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "gathered.hpp"
#include "scratch.hpp"
#include "target.hpp"

namespace infinitypool {

inline constexpr Index kLanes = 16;  // an inner run of as many is worth a call of its own
enum GatheredTensor { kIn, kOut, kNumber, kResult = kNumber, kGradIn };

inline Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// A line of inputs while it is worked on. Its first element belongs to the first window's start.
struct Row {
  Index id = -1;  // which line
  const char* values = nullptr;
  const std::uint8_t* mask = nullptr;
  bool whole = true;        // every element takes part
  std::uint64_t place = 0;  // in the window or the plane
};

// The lines that a window reaches over, loaded once as windows slide.
class Rows {
 public:
  Rows(const GatheredPlan& p, const void* in, const std::uint8_t* mask)
      : p_(p), k_(*p.kernels), in_(static_cast<const char*>(in)), mask_(mask), slots_(p.slots),
        scratch_([this](Scratch& s) {
          values_ = p_.direct ? nullptr : static_cast<char*>(s.take(p_.slots * p_.row, k_.acc_size));
          masks_ = p_.masked ? static_cast<std::uint8_t*>(s.take(p_.slots * p_.row, 1)) : nullptr;
        }),
        windows_(p.outer_axes()), at_(p.outer_axes()) {}

  // Lines from here on are those of another plane, or of other windows: [first, end) of a line. Returns how many
  // windows' starts lie before the first element that is held: padding is not.
  Index begin(Index base, Index inner, Index first, Index end) {
    const Axis& line = p_.last();
    base_ = base;
    inner_ = inner;
    position_ = line.irregular ? 0 : line.start(first);
    const Index skipped = position_ < 0 ? -position_ / line.stride : 0;
    position_ += skipped * line.stride;
    columns_ = end - first - skipped;
    for (Row& slot : slots_) slot.id = -1;
    return skipped;
  }

  // What a phase holds of the input's line: n columns, a stretch apart, at this place in the row.
  struct Held { Index first, n, at; };
  Held held(std::size_t phase) const {
    const Index step = p_.stretch(), length = p_.phase_length / p_.inner_block, in = p_.last().in;
    const Index start = position_ + p_.phases[phase];
    const Index skip = start < 0 ? (-start + step - 1) / step : 0;
    const Index first = start + skip * step;
    const Index n = std::min(length - skip, first < in ? (in - first + step - 1) / step : 0);
    return {first, n, static_cast<Index>(phase) * p_.phase_length + skip * inner_};
  }

  // The lines of the window at these outputs of the outer axes, in order.
  void gather(const std::vector<Index>& output, std::vector<Row>& rows, bool plane) {
    rows.clear();
    const int n = p_.outer_axes();
    for (int a = 0; a < n; ++a) {
      windows_[a] = p_.axes[a].valid(output[a]);
      if (windows_[a].count == 0) return;
      at_[a] = 0;
    }
    for (;;) {
      Index id = 0, slot = 0, where = base_;
      std::uint64_t place = 0;
      for (int a = 0; a < n; ++a) {
        const Axis& axis = p_.axes[a];
        const Index i = windows_[a].first + at_[a] * (axis.irregular ? 1 : axis.dilation);
        id = id * axis.in + i;
        slot = slot * p_.held[a] + i % p_.held[a];
        where += i * axis.in_stride;
        place += plane ? static_cast<std::uint64_t>(i * axis.input_place)
                       : static_cast<std::uint64_t>(windows_[a].tap + at_[a]) * axis.tap_place;
      }
      Row& row = slots_[slot];
      if (row.id != id) load(row, id, slot, where);
      rows.push_back(row);
      rows.back().place = place;
      int a = n - 1;
      while (a >= 0 && ++at_[a] == windows_[a].count) at_[a--] = 0;
      if (a < 0) return;
    }
  }

 private:
  void load(Row& row, Index id, Index slot, Index where) {
    const Axis& line = p_.last();
    const Dim& inner = p_.layout.inner;
    row.id = id;
    row.whole = true;
    const char* src = advance(in_, where, k_.in_size);
    if (p_.direct) {
      row.values = advance(src, position_ * inner_, k_.in_size);
      if (p_.omits) {
        const Index first = std::clamp<Index>(position_, 0, line.in);
        const Index end = line.irregular ? line.in : std::clamp<Index>(position_ + (columns_ - 1) * line.stride + line.span(), 0, line.in);
        row.whole = end <= first || !k_.any_nan(advance(src, first * inner_, k_.in_size), (end - first) * inner_);
      }
      return;
    }
    char* values = advance(values_, slot * p_.row, k_.acc_size);
    std::uint8_t* mask = p_.masked ? masks_ + slot * p_.row : nullptr;
    row.values = values;
    row.mask = mask;
    const Index step = p_.stretch();
    for (std::size_t j = 0; j < p_.phases.size(); ++j) {
      const auto [first, n, to] = held(j);
      if (n <= 0) continue;
      const Runs runs{n, line.in == 1 ? inner_ : step * line.in_stride, inner_, inner_ == 1 ? 1 : inner.stride[kIn]};
      const Index from = first * line.in_stride;
      k_.load(advance(values, to, k_.acc_size), inner_, advance(src, from, k_.in_size), runs);
      if (p_.omits) row.whole = row.whole && !k_.any_nan(advance(values, to, k_.acc_size), n * inner_);
      if (!mask) continue;
      const std::uint8_t* m = mask_ + where + from;
      std::uint8_t* dense = mask + to;
      std::uint8_t all = 1;
      for (Index c = 0; c < n; ++c)
        for (Index i = 0; i < inner_; ++i) {
          const std::uint8_t taken = m[c * runs.pitch + i * runs.inner_stride] != 0;
          *dense++ = taken;
          all &= taken;
        }
      row.whole = row.whole && all;
    }
  }

  const GatheredPlan& p_;
  const GatheredKernels& k_;
  const char* in_;
  const std::uint8_t* mask_;
  std::vector<Row> slots_;
  char* values_ = nullptr;
  std::uint8_t* masks_ = nullptr;
  Scratch scratch_;
  std::vector<Window> windows_;
  std::vector<Index> at_;
  Index base_ = 0, inner_ = 1, position_ = 0, columns_ = 1;
};

// The windows of a line that lie inside the input, in [first, end).
inline std::pair<Index, Index> inside(const Axis& line, Index first, Index end) {
  if (line.irregular) return {first, first};
  const Index low = std::max(first, floor_div(line.before + line.stride - 1, line.stride));
  const Index high = std::min(end, floor_div(line.in - line.span() + line.before, line.stride) + 1);
  return low < high ? std::pair{low, high} : std::pair{first, first};
}

}  // namespace infinitypool
