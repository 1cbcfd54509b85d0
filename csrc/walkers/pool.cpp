#include "pool.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "parallel.hpp"
#include "pool_worker.hpp"

namespace infinitypool {
namespace {

constexpr Index kRowsFirst = 6;   // windows at least this high are reduced line by line
constexpr Index kSmallElements = 4096;  // read and written by a small walk: it lists every window

Index window_of(const std::vector<Axis>& axes, Index Axis::*taps) {
  Index n = 1;
  for (const Axis& axis : axes)
    if (__builtin_mul_overflow(n, axis.*taps, &n)) return std::numeric_limits<Index>::max();
  return n;
}

}  // namespace

Weights weights_of(const ReducerInfo& info) {
  return info.binomial ? Weights::binomial : info.idempotent ? Weights::overlapping : Weights::one;
}

std::size_t offset_size(const std::vector<Axis>& axes) {
  const Index window = window_of(axes, &Axis::most_taps);
  return window <= 256 ? 1 : window <= 65536 ? 2 : window <= (Index(1) << 32) ? 4 : 8;
}

std::vector<Axis> axes_of(const PoolArguments& a) {
  const std::size_t n = a.axes.size();
  std::vector<Axis> axes(n);
  std::uint64_t tap = 1;
  Index input = 1;
  for (std::size_t i = n; i-- > 0;) {
    Axis& axis = axes[i];
    const WindowArguments& w = a.windows[i];
    axis.in = a.shape[a.axes[i]];
    axis.out = w.out;
    axis.kernel = w.kernel;
    axis.stride = w.stride;
    axis.before = w.before;
    axis.after = w.after;
    axis.dilation = w.dilation;
    if (w.adaptive) adapt(axis);
    if (w.per_plane) place(axis);
    axis.most_taps = !w.adaptive ? axis.kernel : axis.out == 1 ? axis.in : axis.in / std::max<Index>(1, axis.out) + 2;
    // An offset counts the taps of the window; a position in the plane counts its inputs.
    const bool plane = a.places == Places::plane;
    axis.tap_place = plane ? static_cast<std::uint64_t>(axis.dilation * input) : tap;
    axis.input_place = plane ? input : 0;
    tap *= static_cast<std::uint64_t>(axis.kernel);
    if (__builtin_mul_overflow(input, std::max<Index>(1, axis.in), &input)) input = 0;
    if (reducers()[reducer_from(a.reducer)].binomial) {
      axis.count.assign(axis.out, std::ldexp(1.0, static_cast<int>(std::min<Index>(axis.kernel - 1, 2000))));
    } else if (a.divisor_override == 0) {
      count_elements(axis, a.count_include_pad);
    }
  }
  return axes;
}

Pool::Pool(const PoolArguments& a) {
  const ReducerInfo& info = reducers()[reducer_from(a.reducer)];
  axes_ = axes_of(a);
  const Index window = window_of(axes_, &Axis::kernel);
  Variant variant = Variant::values;
  counted_ = info.divides && (a.masked || a.omits_nans) && a.divisor_override == 0;
  if (counted_) {
    variant = Variant::counts;
  } else if (a.places != Places::none) {
    // Places count from a window's start; 32 bits hold them unless windows are huge.
    double reach = 0;
    for (const Axis& axis : axes_) reach += static_cast<double>(axis.kernel) * static_cast<double>(axis.tap_place);
    variant = reach < 0x1p31 ? Variant::places : Variant::wide_places;
  } else if (!info.selects && window >= (Index(1) << 15)) {
    variant = Variant::wide_values;  // 2^15 elements of 16 bits still fit 31
  }
  places_ = a.places;
  place_out_size_ = a.places == Places::plane ? 8 : offset_size(axes_);
  divides_ = info.divides && !counted_;
  signed_zeros_ = info.selects && is_floating(a.dtype);
  masked_ = a.masked;
  omits_ = a.omits_nans;
  truncate_ = a.truncate;
  few_ = window <= 4096;
  plan(a, a.shape, a.in_strides, a.out_strides, variant, false);
}

Pool Pool::spread(const PoolArguments& a) {
  Pool p;
  p.divides_ = p.divides_on_load_ = reducers()[reducer_from(a.reducer)].divides;
  p.axes_ = axes_of(a);
  Shape shape = a.shape;
  for (std::size_t i = 0; i < p.axes_.size(); ++i) shape[a.axes[i]] = p.axes_[i].out;
  p.plan(a, shape, a.out_strides, a.in_strides, Variant::values, true);
  return p;
}

// `shape` is the shape of what is read, `from` and `to` are the strides of both sides.
void Pool::plan(const PoolArguments& a, const Shape& shape, const Shape& from, const Shape& to, Variant variant,
                bool transposed) {
  const int reducer = reducer_from(a.reducer);
  const Weights weights = weights_of(reducers()[reducer]);
  isa_ = &isa();
  kernels_ = isa_->find(reducer, a.dtype, variant);
  if (!kernels_) throw std::invalid_argument(a.reducer + " is not defined for " + name_of(a.dtype));
  divisor_ = static_cast<double>(a.divisor_override);
  const bool per_plane = axes_.front().per_plane;
  layout_ = layout_of(shape, {from, to, to}, a.axes, transposed ? 1 : 0, per_plane);
  for (const Axis& axis : axes_) starts_ = per_plane ? std::max(starts_, axis.out) : 0;

  if (layout_.line_axis_added) axes_.push_back(Axis{});
  if (!transposed && !masked_ && places_ != Places::plane) stack_planes(layout_, axes_);
  if (axes_.size() == 1 && !layout_.outer.empty() && !per_plane && axes_[0].out < kInnerBlock)
    take_outer_axis(layout_, axes_);
  for (std::size_t i = 0; i < axes_.size(); ++i) {
    if (transposed) axes_[i] = transpose(axes_[i], i + 1 == axes_.size(), weights);
    axes_[i].in_stride = layout_.axes[i][0];
    axes_[i].out_stride = layout_.axes[i][1];
    if (axes_[i].chain.empty() && axes_[i].table.empty()) prepare(axes_[i], weights);
  }
  parameters_ = a.parameters;
  admits_ = (kernels_->lifts && !transposed) || masked_ || omits_;
  if (layout_.line_axis_added) axes_.back().count = {1.0};

  const Axis& last = axes_.back();
  const Dim& inner = layout_.inner;
  inner_block_ = layout_.inner_block();
  contiguous_lines_ = !divides_on_load_ && last.spacing == 1 &&
                      (inner.size == 1 || inner.stride[0] == 1) && (last.in == 1 || last.in_stride == inner.size);
  raw_lines_ = contiguous_lines_ && kernels_->direct_load && !admits_;
  column_divisor_ = divides_ && divisor_ == 0 && !last.constant_count;
  flat_lines_ = axes_.size() > 1 && contiguous_lines_ && last.regular() && last.before == 0 &&
                last.in == last.out * last.stride && last.span() <= last.stride && !layout_.line_axis_added &&
                axes_[axes_.size() - 2].in_stride == last.in * inner.size;

  flat_out_ = inner.size == 1 || inner.stride[1] == 1;
  Index item = inner_block_, outputs = layout_.outer_count() * inner.size, inputs = outputs;
  for (std::size_t i = axes_.size(); i-- > 0;) {
    flat_out_ = flat_out_ && (axes_[i].out == 1 || axes_[i].out_stride == item) &&
                (!divides_ || divides_on_load_ || divisor_ != 0 || axes_[i].constant_count);
    item *= axes_[i].out;
  }
  flat_out_ = flat_out_ && inner_block_ == inner.size;
  for (const Axis& axis : axes_) outputs *= axis.out, inputs *= axis.in;
  elements_ = outputs ? outputs + inputs : 0;
  int merges = 0;  // per input
  for (const Axis& axis : axes_)
    for (const Step& step : axis.chain) merges += step.count - 1;
  if (axes_.size() > 1 && !layout_.line_axis_added) {
    const Axis& rows = axes_[axes_.size() - 2];
    double taps = 0;
    for (Index o = 0; o < rows.out; ++o) taps += static_cast<double>(rows.valid(o).count);
    rows_first_ = !transposed && weights != Weights::binomial && rows.kernel >= kRowsFirst &&
                  taps <= 1.5 * static_cast<double>(rows.in);
  }
  scans_ = kernels_->any_nan && merges > 2 && !omits_;
  stream_ = static_cast<std::size_t>(outputs) * kernels_->out_size >= kStreamBytes;
  if (!transposed) plan_small(weights);
}

// Where windows tile the input, are listed, or their positions asked for: others are walked as quickly.
void Pool::plan_small(Weights weights) {
  const Dim& inner = layout_.inner;
  if (elements_ == 0 || elements_ >= kSmallElements || layout_.outer.size() > 1 || layout_.line_axis_added ||
      axes_.size() < 2 || admits_ || masked_ || omits_ || counted_ || kernels_->lower || rows_first_ ||
      weights == Weights::binomial || axes_.front().per_plane)
    return;
  const auto tiles = [](const Axis& axis) {
    return !axis.irregular && axis.in == axis.out * axis.stride && axis.span() <= axis.stride;
  };
  bool listed = false, tiled = true;
  for (const Axis& axis : axes_) {
    listed = listed || axis.irregular;
    tiled = tiled && tiles(axis);
    if (axis.spacing != 1 || axis.may_clip() || (!axis.irregular && axis.chain.size() != 1)) return;
  }
  if (!listed && !tiled && places_ != Places::plane) return;
  for (const Window& w : axes_.back().table)
    if (w.count > kShortWindow) return;
  const auto lies_together = [&](int tensor, Index Axis::*size) {
    Index item = inner.size;
    if (inner.size > 1 && inner.stride[tensor] != 1) return false;
    for (std::size_t a = axes_.size(); a-- > 0; item *= axes_[a].*size)
      if (axes_[a].*size > 1 && layout_.axes[a][tensor] != item) return false;
    return layout_.outer.empty() || layout_.outer[0].stride[tensor] == item;
  };
  if (!lies_together(0, &Axis::in) || !lies_together(1, &Axis::out)) return;

  auto walk = std::make_unique<SmallWalk>();
  walk->inner = inner.size;
  walk->truncate = truncate_;
  walk->few = few_;
  Index lines = layout_.outer_count(), item = inner.size;
  for (const Axis& axis : axes_) lines *= axis.in;
  walk->inputs = lines * item;
  for (std::size_t a = axes_.size(); a-- > 0;) {
    const Axis& axis = axes_[a];
    lines /= axis.in;
    const Index step = axis.irregular ? axis.table_step : axis.dilation;
    SmallAxis small{.windows = {}, .count = lines * axis.out, .stride = axis.stride, .step = step, .inner = item,
                    .tap_place = axis.tap_place};
    if (tiles(axis)) small.taps = static_cast<int>(axis.kernel);
    for (Index line = 0; small.taps == 0 && line < lines; ++line)
      for (Index o = 0; o < axis.out; ++o) {
        Window w = axis.irregular ? axis.table[o] : axis.valid(o);
        if (w.count < 1) return;
        w.first += line * axis.in;
        small.windows.push_back(w);
      }
    walk->axes.push_back(std::move(small));
    item *= axis.out;
  }
  const bool divided = divides_ && !divides_on_load_;
  if (divided && divisor_ != 0) walk->divisors = {divisor_};
  const bool counts = divided && divisor_ == 0, positions = places_ == Places::plane;
  const Index columns = layout_.outer_count() * item / inner.size;
  for (Index column = 0; (counts || positions) && column < columns; ++column) {
    Index left = column, position = 0;
    double divisor = 1;
    for (std::size_t a = axes_.size(); a-- > 0; left /= axes_[a].out) {
      const Index o = left % axes_[a].out;
      if (counts) divisor *= axes_[a].count[o];
      position += axes_[a].start(o) * axes_[a].input_place;
    }
    if (counts) walk->divisors.push_back(divisor);
    if (positions) walk->starts.push_back(position);
  }
  small_ = std::move(walk);
}

void Pool::check(const Index* starts) const {
  if (!starts) throw std::invalid_argument("windows per plane need their starts");
  for (Index unit = 0; unit < layout_.outer_count(); ++unit)
    for (const Axis& axis : axes_) {
      Index least = 0;
      for (Index o = 0; o < axis.out; least = starts[o++])
        if (starts[o] < least || starts[o] > axis.in - axis.kernel)
          throw std::invalid_argument("the starts of windows must ascend within the input");
      starts += starts_;
    }
}

void Pool::run(const void* in, void* out, void* places, const std::uint8_t* mask, const Index* starts) const {
  const Axis& first = axes_.front();
  if (elements_ == 0) return;
  if (small_) return small_->run(*kernels_, in, out, places, place_out_size_);
  if (first.per_plane) check(starts);
  const int threads = elements_ < kParallelElements ? 1 : thread_count();
  Index halo = first.regular() ? first.span() / std::max<Index>(first.stride, 1) : 1;
  if (rows_first_) halo = 0;
  if (axes_.size() == 1) halo = kInnerBlock / 2;
  const auto tasks = split(layout_, first.out, halo, inner_block_, threads);
  parallel(tasks, threads, [&] { return PoolWorker(*this, in, out, places, mask, starts); });
}

}  // namespace infinitypool
