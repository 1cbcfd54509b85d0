// What the walkers may call: loops over contiguous runs, one set for each
// (reducer, input dtype, variant), compiled once per instruction set.
#pragma once

#include "types.hpp"

namespace infinitypool {

// How wide the accumulator has to be.
enum class Variant : std::uint8_t {
  values,       // results alone
  wide_values,  // results alone, sums that may leave 32 bits
  places,       // results and 32- or 64-bit places, as wide as the accumulator
  wide_places,  // results and 64-bit places
  counts,       // sums, and in the place of places how many elements each has; as wide as they can be
};
inline constexpr int kVariants = 5;

// What a reducer takes beside the elements: an exponent, a quantile, ... in the order of its names.
inline constexpr int kParameters = 4;
struct Parameters {
  double at[kParameters] = {};
};

// What to divide by: scale * column[i / inner], or scale alone where column is null.
struct Divisor {
  const double* column = nullptr;  // counts are exact in a double up to 2^53
  double scale = 1;
  bool few = false;       // at most 4096 elements are divided by their own count
  bool truncate = false;  // integers: toward zero instead of to nearest, ties to even
};

struct Tap {
  Index back;           // in elements
  std::uint64_t place;
};

struct Kernels {
  std::size_t in_size = 0, acc_size = 0, place_size = 0, out_size = 0;
  DType out = DType::float32;
  bool direct_load = false;    // accumulators and inputs have the same representation
  bool direct_finish = false;  // accumulators and outputs have the same representation
  bool lifts = false;          // elements are changed before they are merged: admit is needed

  void (*fill)(Line dst, Index n) = nullptr;  // the reducer's identity; places, if given, as 0
  // dst: columns at dst_pitch, inner elements contiguous.
  void (*load)(void* dst, Index dst_pitch, const void* src, Runs runs) = nullptr;
  void (*load_divided)(void* dst, Index dst_pitch, const void* src, Runs runs, Divisor by) = nullptr;
  // What takes part: lifts loaded elements, and replaces those that are masked out, or a NaN where NaNs
  // are omitted, by the identity. counts, if given, get 1 or 0.
  void (*admit)(Line run, const std::uint8_t* mask, bool omit, Index n, const Parameters& p) = nullptr;
  // dst[i] = terms merged in order, 1 to kTerms of them. The second form is quicker and only right for
  // clean runs, without a NaN.
  void (*merge[2])(Line dst, const Term* terms, int count, Index n) = {};
  void (*merge_values[2])(Line dst, const Term* terms, int count, Index n) = {};  // without their places
  // merge at every stride-th column of the terms: n columns of inner elements each.
  void (*merge_strided[2])(Line dst, const Term* terms, int count, Index n, Index stride, Index inner) = {};
  bool (*any_nan)(const void* run, Index n) = nullptr;  // null where it makes no difference
  // Looks winners up: where value[c] is met in run[c], run[inner + c], ... place[c] becomes the first such
  // place, counted from `from` on by `step`. Places already found stay; of NaNs the last one wins.
  void (*locate)(void* place, const void* value, const void* run, Index count, Index inner, std::uint64_t from,
                 std::uint64_t step) = nullptr;
  // dst[c] = src[c], src[pitch + c], ... merged in order; a tap's place grows by place_step.
  void (*fold)(Line dst, Term src, Index count, Index pitch, Index inner, std::uint64_t place_step) = nullptr;
  // The same for n short windows of one line, whose elements lie `step` columns apart.
  void (*fold_each)(Line dst, Term line, const Window* windows, Index n, Index step, Index inner,
                    std::uint64_t place_step) = nullptr;
  void (*finish)(void* dst, const void* src, Index columns, Index inner, const Divisor* by) = nullptr;
  // Divides where asked to, and undoes the lift, in place; null where there is nothing to undo.
  void (*lower)(void* run, Index columns, Index inner, const Divisor* by, const Parameters& p) = nullptr;
  // Finishes sums with a count of their own.
  void (*finish_counted)(void* dst, Line src, Index n, bool truncate, const Parameters& p) = nullptr;
  // Which elements equal the identity: the first from `at` on, n if there is none.
  Index (*find_identity)(const void* value, Index at, Index n) = nullptr;
  // dst[i] = place[i] + base + column * step, in dst_size bytes.
  void (*store_places)(void* dst, std::size_t dst_size, const void* place, Index columns, Index inner, Index base,
                       Index step) = nullptr;
  // Gradient to the winner, in offsets as wide as the accumulator: to each of the lines, tap by tap,
  // grad[i - back] where offset[i - back] is that line's place plus the tap's. Up to three of each.
  void (*widen_offsets)(void* dst, const void* src, std::size_t src_size, Index n) = nullptr;
  void (*route)(void* const* lines, const std::uint64_t* places, int line_count, const void* grad,
                const void* offset, const Tap* taps, int tap_count, Index n) = nullptr;
  // acc[column * column_step + delta[offset] + c] += grad. For offsets of one and two bytes, delta has
  // an entry for every value they can take; wider ones count as 0 beyond the window.
  void (*scatter)(void* acc, const void* grad, const void* offset, std::size_t offset_size,
                  const std::int32_t* delta, Index window, Index columns, Index column_step, Index inner) = nullptr;
  // dst[o * stride + p] = phases[p][o], runs of inner, for all columns of dst.
  void (*interleave)(void* dst, const void* const* phases, Index stride, Index columns, Index inner) = nullptr;
};

// How a gradient comes back: to the winner; in even shares; times a weight for each element.
enum class Gradient : std::uint8_t { winner, even, weighted };
enum class Domain : std::uint8_t { floats, numbers, all };  // which dtypes: all has bool as well

// What a reducer says of itself.
struct ReducerInfo {
  const char* name;
  const char* numpy;       // over w, the valid elements of one window, and the parameters
  Gradient gradient;
  Domain domain = Domain::numbers;
  bool idempotent = false;  // overlapping pieces may be merged
  bool selects = false;     // the result is one of the elements: it has an index
  bool divides = false;     // finish divides by the window's count
  bool binomial = false;    // elements weigh as a row of Pascal's triangle; the count is its sum
  bool gathered = false;    // needs the whole window at once
  const char* parameters = "";  // names, separated by spaces
};

struct IsaTable {
  const char* name;
  const Kernels* (*find)(int reducer, DType in, Variant variant);
  void (*stream)(void* dst, const void* src, std::size_t bytes);  // stores that bypass the cache
};

}  // namespace infinitypool
