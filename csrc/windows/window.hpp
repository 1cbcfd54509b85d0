// Which inputs each output of one axis reads.
#pragma once

#include <utility>
#include <vector>

#include "../types.hpp"

namespace infinitypool {

// A window is built from narrower ones of equal width, so that its cost grows with the logarithm
// of its length: 1 → 5 → 13 for a maximum (pieces may overlap), 1 → 3 → 13 for a sum.
struct Step {
  struct Part { int level; Index shift; };  // level 0 is the input, level i + 1 the i-th step
  Index width;
  int count;
  Part parts[kTerms];
};
using Chain = std::vector<Step>;
enum class Weights : std::uint8_t { one, overlapping, binomial };  // overlapping: an element may count twice
Chain build_chain(Index kernel, Weights weights);

struct Axis {
  Index in = 1, out = 1;
  Index kernel = 1, stride = 1, before = 0, after = 0, dilation = 1;
  Index in_stride = 0, out_stride = 0;  // in elements

  // Input columns stand this far apart, with zeros between: the transpose of a stride.
  Index spacing = 1;

  // Regular windows are built by the chain; a table replaces it where windows differ in length.
  Chain chain;
  std::vector<Window> table;
  bool irregular = false;  // windows start where the table says: `kernel` is the longest of them
  bool per_plane = false;  // every plane comes with starts of its own, in the place of the table's
  Index table_step = 1;
  std::vector<Index> table_floor;  // the lowest input that an output or any later one reads

  // What a mean divides by, per output; constant where all are equal.
  std::vector<double> count;
  bool constant_count = true;

  // What one tap adds to the place of a winner inside its window; and where a window starts, what one
  // output adds to the place of that start.
  std::uint64_t tap_place = 0;
  Index input_place = 0;
  Index most_taps = 1;  // what chooses the type of such a place: a bound that depends on no remainder

  Index span() const { return (kernel - 1) * dilation + 1; }
  Index start(Index o) const { return irregular ? table[o].first : o * stride - before; }
  Index padded() const { return irregular ? in : (out - 1) * stride + span(); }  // what the windows reach over
  Index extent() const { return (in - 1) * spacing + 1; }  // inputs with the zeros between them
  bool regular() const { return table.empty(); }
  bool may_clip() const;  // does any window reach beyond the input?
  Window valid(Index o) const;  // the taps of a window that lie inside the input
  std::pair<Index, Index> readers(Index first, Index end) const;  // low to high: may read inputs [first, end)
};

// The windows of adaptive pooling: from floor(o * in / out) up to ceil((o + 1) * in / out).
void adapt(Axis& axis);

// Windows of kernel elements at these starts, which must not fall; evenly spread ones where there are none.
void place(Axis& axis, const Index* starts = nullptr);

void count_elements(Axis& axis, bool include_padding);

// Calls visit() for every line of inputs or outputs, as `size` says, whose first coordinate is in [first, end);
// `at` has a coordinate for each axis but the last.
template <class Visit>
void each_line(const std::vector<Axis>& axes, std::vector<Index>& at, Index Axis::*size, Index first, Index end,
               Visit visit) {
  const int outer = static_cast<int>(axes.size()) - 1;
  for (int a = 1; a < outer; ++a) {
    at[a] = 0;
    if (axes[a].*size == 0) return;
  }
  for (at[0] = first; at[0] < end;) {
    visit();
    int a = outer - 1;
    while (a > 0 && ++at[a] == axes[a].*size) at[a--] = 0;
    if (a == 0) ++at[0];
  }
}

// Lists the windows instead of building them.
void list(Axis& axis, std::vector<Window> table, Index step);

// Windows that lie mostly outside, or whose taps lie far apart, are cheaper to list than to build.
void prepare(Axis& axis, Weights weights);

// The axis on which the gradient travels: outputs become inputs. The innermost axis gets its zeros
// between the columns and keeps a chain; outer axes list the outputs that read each input.
Axis transpose(const Axis& axis, bool innermost, Weights weights);

}  // namespace infinitypool
