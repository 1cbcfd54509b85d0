// The walker of all regular pooling, forward, and of the gradients of means and sums.
#pragma once

#include <memory>
#include <string>

#include "../table.hpp"
#include "layout.hpp"
#include "small.hpp"

namespace infinitypool {

enum class Places : std::uint8_t { none, offset, plane };

struct WindowArguments {
  Index kernel = 1, stride = 1, before = 0, after = 0, dilation = 1, out = 1;
  bool adaptive = false;   // the output's size alone says where windows lie
  bool per_plane = false;  // starts are given with the data, for every plane
};

struct PoolArguments {
  std::string reducer;
  DType dtype;
  Shape shape;                 // of the forward input
  Shape in_strides, out_strides, offset_strides;
  std::vector<int> axes;       // ascending
  std::vector<WindowArguments> windows;  // per pooled axis
  bool count_include_pad = false;
  Index divisor_override = 0;
  bool truncate = false;
  Places places = Places::none;
  Parameters parameters = {};
  bool masked = false, omits_nans = false;  // which elements take part
  Shape x_strides = {}, result_strides = {};  // of the forward call, where a gradient is weighted
};

// The pooled axes with their windows, counted and with their places' weights.
std::vector<Axis> axes_of(const PoolArguments& a);

std::size_t offset_size(const std::vector<Axis>& axes);  // bytes of one compact offset
Weights weights_of(const ReducerInfo& info);

// One planned operation: immutable, so that any number of threads may run it.
class Pool {
 public:
  explicit Pool(const PoolArguments& a);                  // forward
  static Pool spread(const PoolArguments& a);             // gradient of a mean or a sum
  // mask: a byte for each element, strided as the input. starts: of windows per plane, for every plane (in
  // C order) and axis as many as the longest axis has results.
  void run(const void* in, void* out, void* places, const std::uint8_t* mask = nullptr,
           const Index* starts = nullptr) const;

 private:
  friend class PoolWorker;
  Pool() = default;
  void check(const Index* starts) const;  // throws std::invalid_argument
  void plan(const PoolArguments& a, const Shape& shape, const Shape& from, const Shape& to, Variant variant,
            bool transposed);

  void plan_small(Weights weights);

  std::vector<Axis> axes_;
  Layout layout_;
  std::unique_ptr<SmallWalk> small_;  // in the walker's place
  const Kernels* kernels_ = nullptr;
  const IsaTable* isa_ = nullptr;
  Places places_ = Places::none;
  std::size_t place_out_size_ = 0;
  bool divides_ = false, divides_on_load_ = false, truncate_ = false, few_ = false;
  bool column_divisor_ = false;  // the divisor changes along a line
  double divisor_ = 0;           // overrides the count where not 0
  bool contiguous_lines_ = false;  // an input line is one run
  bool raw_lines_ = false;       // an input line may be read where it lies
  bool flat_lines_ = false;      // no window crosses the border between two adjacent lines
  bool flat_out_ = false;        // results lie together and share a divisor
  bool stream_ = false;
  bool scans_ = false;           // looks for NaNs, to merge faster where there are none
  bool admits_ = false;          // elements are lifted, masked or omitted as they are loaded
  bool masked_ = false, omits_ = false, counted_ = false;  // counted_: sums carry a count each
  // Windows hardly overlap and are high: lines are merged before they are pooled, and winners looked up.
  bool rows_first_ = false, signed_zeros_ = false;
  Parameters parameters_;
  Index inner_block_ = 1, elements_ = 0;
  Index starts_ = 0;  // per axis of a plane, where they are given with the data
};

}  // namespace infinitypool
