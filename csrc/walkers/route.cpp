#include "route.hpp"

#include <limits>
#include <stdexcept>

#include "parallel.hpp"
#include "scratch.hpp"
#include "target.hpp"

namespace infinitypool {
namespace {

// Windows up to this size compare every tap with a line of offsets; beyond, each output looks its
// winner up. Both add in the order of the outputs, so the choice does not change a bit.
constexpr Index kCompareWindow = 16;
constexpr Index kColumns = 2048;  // of a line compared at a time
constexpr int kTogether = 3;      // lines and taps compared at a time
constexpr Index kBandBytes = Index(512) << 10;  // of accumulators, to stay in the second cache
enum Tensor { kGrad, kOffsets, kGradIn };

}  // namespace

Route::Route(const PoolArguments& a) {
  const int reducer = reducer_from(a.reducer);
  isa_ = &isa();
  kernels_ = isa_->find(reducer, a.dtype, Variant::values);
  if (!kernels_ || !kernels_->route) throw std::invalid_argument(a.reducer + " has no gradient to route");
  axes_ = axes_of(a);
  offset_size_ = offset_size(axes_);
  layout_ = layout_of(a.shape, {a.out_strides, a.offset_strides, a.in_strides}, a.axes, kGradIn);
  if (layout_.line_axis_added) axes_.push_back(Axis{});
  if (axes_.size() == 1) take_outer_axis(layout_, axes_);
  window_ = 1;
  Index outputs = layout_.outer_count() * layout_.inner.size, inputs = outputs;
  for (const Axis& axis : axes_) {
    if (__builtin_mul_overflow(window_, axis.kernel, &window_)) throw std::bad_alloc();
    outputs *= axis.out;
    inputs *= axis.in;
  }
  elements_ = inputs ? inputs + outputs : 0;
  stream_ = static_cast<std::size_t>(inputs) * kernels_->out_size >= kStreamBytes;
  inner_block_ = layout_.inner_block();
  compares_ = window_ <= kCompareWindow && axes_.back().stride <= kCompareWindow;
  for (const Axis& axis : axes_) compares_ = compares_ && !axis.irregular;

  // Accumulators of one input along the first axis, with the padding around the others. Lines that
  // are compared keep the phases of their stride apart, so that taps add whole runs.
  const Axis& line = axes_.back();
  line_phases_ = compares_ ? line.stride : 1;
  phase_ = compares_ ? (line.padded() + line.stride - 1) / line.stride * inner_block_ : line.padded() * inner_block_;
  phase_ = (phase_ + 15) / 16 * 16;  // runs begin with a cache line
  if (__builtin_mul_overflow(phase_, line_phases_, &row_)) throw std::bad_alloc();
  std::vector<Index> step(axes_.size(), 0);  // elements from one input to the next
  for (std::size_t a = axes_.size() - 1; a-- > 0;) {
    step[a] = row_;
    if (a && __builtin_mul_overflow(row_, axes_[a].padded(), &row_)) throw std::bad_alloc();
  }
  steps_ = step;
  const Index row_bytes = std::max<Index>(1, row_ * static_cast<Index>(kernels_->acc_size));
  // Slides along; with room to do so seldom where windows overlap.
  const Axis& top = axes_.front();
  band_ = std::max(std::min(kBandBytes / row_bytes, top.padded()),
                   top.stride >= top.span() ? top.span() : 2 * top.span());

  if (compares_) {
    phases_.resize(line.stride);
    for (Index t = line.kernel; t-- > 0;)  // falling taps are rising outputs
      phases_[t * line.dilation % line.stride].push_back(
          {t * line.dilation / line.stride * inner_block_, static_cast<std::uint64_t>(t) * line.tap_place});
    for (Index w = 0; w < window_; w += line.kernel) rows_.push_back({place_of(w, step), static_cast<std::uint64_t>(w)});
    return;
  }
  step.back() = inner_block_;
  if (axes_.front().span() > std::numeric_limits<std::int32_t>::max() / row_) throw std::bad_alloc();
  // An entry for every offset that one or two bytes can hold: no check is needed then.
  delta_.assign(offset_size_ == 1 ? 256 : offset_size_ == 2 ? 65536 : window_, 0);
  for (Index w = 0; w < window_; ++w) delta_[w] = static_cast<std::int32_t>(place_of(w, step));
}

// Where the tap with this offset lies from the start of its window.
Index Route::place_of(Index offset, const std::vector<Index>& step) const {
  Index place = 0;
  for (std::size_t a = axes_.size(); a-- > 0; offset /= axes_[a].kernel)
    place += offset % axes_[a].kernel * axes_[a].dilation * step[a];
  return place;
}

class RouteWorker {
 public:
  RouteWorker(const Route& r, const void* grad, const void* offsets, void* grad_in)
      : r_(r), k_(*r.kernels_), n_(static_cast<int>(r.axes_.size())), grad_(grad), offsets_(offsets),
        out_{grad_in, k_.out_size, r.layout_.axes.back()[kGradIn], r.layout_.inner.stride[kGradIn], r.stream_, r.isa_},
        inner_(r.inner_block_), output_(n_), input_(n_), scratch_([this](Scratch& s) { lay_out(s); }) {
    const Axis& line = last();
    std::memset(zeros_, 0, static_cast<std::size_t>(line.in * r_.inner_block_) * k_.acc_size);
    // Zero gradients around the line let every tap run over the whole of it.
    const std::size_t edge = static_cast<std::size_t>(guard_) * k_.acc_size;
    std::memset(lines_, 0, edge);
    std::memset(advance(lines_, guard_ + line.out * r_.inner_block_, k_.acc_size), 0, edge);
  }

  void run(const Task& task) {
    inner_ = task.inner_last - task.inner_first;
    base_ = r_.layout_.outer_offset(task.unit);
    for (int t = 0; t < kTensors; ++t) base_[t] += task.inner_first * r_.layout_.inner.stride[t];
    gather(task.first, task.last);
  }

 private:
  const Axis& axis(int a) const { return r_.axes_[a]; }
  const Axis& last() const { return r_.axes_.back(); }
  Index stride(int a, Tensor t) const { return r_.layout_.axes[a][t]; }

  void lay_out(Scratch& s) {
    const Index inner = r_.inner_block_;
    const Axis& line = last();
    const std::size_t v = k_.acc_size;
    const Index columns = line.out * inner;
    band_ = s.take(r_.band_ * r_.row_, v);
    guard_ = r_.compares_ ? (line.span() - 1) / line.stride * inner : 0;
    lines_ = s.take(columns + 2 * guard_, v);
    wide_ = r_.compares_ ? s.take(columns + 2 * guard_, v) : nullptr;
    spare_ = s.take(columns, r_.offset_size_);
    woven_ = r_.line_phases_ > 1 ? s.take((line.in + line.before) * inner, v) : nullptr;
    zeros_ = s.take(line.in * inner, v);
    phases_.resize(r_.line_phases_);
    finished_ = s.take(line.in * inner, k_.out_size);
  }

  // ------------------------------------------------------------------ lines in and out

  bool contiguous(Tensor t, Index columns) const {
    return (inner_ == 1 || r_.layout_.inner.stride[t] == 1) && (columns == 1 || stride(n_ - 1, t) == inner_);
  }

  Index line_at(Tensor t, const std::vector<Index>& coordinate) const {
    Index where = base_[t];
    for (int a = 0; a < n_ - 1; ++a) where += coordinate[a] * stride(a, t);
    return where;
  }

  // The gradient's line at output_, in accumulators.
  void load_grad(void* dst) {
    const Dim& inner = r_.layout_.inner;
    const Index pitch = last().out == 1 ? inner_ : stride(n_ - 1, kGrad);
    const char* src = advance(grad_, line_at(kGrad, output_), k_.in_size);
    ahead_grad_.consumed(src + last().out * inner_ * static_cast<Index>(k_.in_size));
    k_.load(dst, inner_, src, {last().out, pitch, inner_, inner_ == 1 ? 1 : inner.stride[kGrad]});
  }

  // The offsets' line at output_: where it lies, or gathered into spare.
  const void* offsets_line(void* spare) {
    const std::size_t size = r_.offset_size_;
    const char* src = advance(offsets_, line_at(kOffsets, output_), size);
    ahead_offsets_.consumed(src + last().out * inner_ * static_cast<Index>(size));
    if (contiguous(kOffsets, last().out)) return src;
    char* dst = static_cast<char*>(spare);
    for (Index c = 0; c < last().out; ++c)
      for (Index i = 0; i < inner_; ++i, dst += size)
        std::memcpy(dst, advance(src, c * stride(n_ - 1, kOffsets) + i * r_.layout_.inner.stride[kOffsets], size), size);
    return spare;
  }

  void emit(const void* sums, Index first, Index columns) {
    Index where = line_at(kGradIn, input_) + first * stride(n_ - 1, kGradIn);
    if (k_.direct_finish) return out_.store(where, sums, columns, inner_);
    void* to = out_.contiguous(columns, inner_) && !out_.streams ? out_.at(where) : finished_;
    k_.finish(to, sums, columns, inner_, nullptr);
    out_.store(where, to, columns, inner_);
  }

  // A padded line of sums; inputs that no window reaches get 0.
  void emit_padded(const char* sums) {
    const Axis& line = last();
    const Index columns = std::clamp<Index>(line.padded() - line.before, 0, line.in);
    if (r_.line_phases_ > 1) {
      for (Index p = 0; p < r_.line_phases_; ++p) phases_[p] = advance(sums, p * r_.phase_, k_.acc_size);
      k_.interleave(woven_, phases_.data(), line.stride, line.before + columns, inner_);
      sums = static_cast<const char*>(woven_);
    }
    if (columns) emit(advance(sums, line.before * inner_, k_.acc_size), 0, columns);
    if (columns < line.in) emit(zeros_, columns, line.in - columns);
  }

  // Inputs [first, end) of the first axis: every output that reads them adds to a band of sums, which
  // slides along and hands out what is complete.
  void gather(Index first, Index end) {
    const Axis& top = axis(0);
    const auto [low, high] = top.readers(first, end);
    origin_ = std::min(first, top.start(low));
    emitted_ = first;
    const auto bytes = [&](Index rows) { return static_cast<std::size_t>(rows * r_.row_) * k_.acc_size; };
    std::memset(band_, 0, bytes(r_.band_));
    for (Index o = low; o <= high; ++o) {
      if (top.start(o) + top.span() - origin_ > r_.band_) {  // inputs before this window are complete
        emit_rows(std::min(top.start(o), end));
        const Index kept = std::max<Index>(0, origin_ + r_.band_ - top.start(o));
        std::memmove(band_, advance(band_, (r_.band_ - kept) * r_.row_, k_.acc_size), bytes(kept));
        std::memset(advance(band_, kept * r_.row_, k_.acc_size), 0, bytes(r_.band_ - kept));
        origin_ = top.start(o);
      }
      each_line(r_.axes_, output_, &Axis::out, o, o + 1, [&] {
        Index where = (top.start(o) - origin_) * r_.steps_[0];
        for (int a = n_ - 2; a > 0; --a) where += (axis(a).start(output_[a]) + axis(a).before) * r_.steps_[a];
        add_line(advance(band_, where, k_.acc_size));
      });
    }
    emit_rows(end);
  }

  // The gradient's line at output_; `sums` belongs to the first tap of its first window.
  void add_line(char* sums) {
    char* grad = advance(lines_, guard_, k_.acc_size);
    load_grad(grad);
    const void* offsets = offsets_line(spare_);
    if (r_.compares_) {
      char* wide = advance(wide_, guard_, k_.acc_size);
      k_.widen_offsets(wide, offsets, r_.offset_size_, last().out * inner_);
      compare(sums, grad, wide);
      return;
    }
    ask(last().out * inner_);
    if (!last().irregular)
      return k_.scatter(sums, grad, offsets, r_.offset_size_, r_.delta_.data(), r_.window_, last().out,
                        last().stride * inner_, inner_);
    for (Index o = 0; o < last().out; ++o)
      k_.scatter(advance(sums, last().start(o) * inner_, k_.acc_size), advance(grad, o * inner_, k_.acc_size),
                 advance(offsets, o * inner_, r_.offset_size_), r_.offset_size_, r_.delta_.data(), r_.window_, 1, 0,
                 inner_);
  }

  void compare(char* sums, const char* grad, const char* offsets) {
    const Index columns = last().out * inner_ + guard_;
    for (Index c = 0; c < columns; c += kColumns) {  // a piece at a time: it stays in the first cache
      const Index n = std::min(kColumns, columns - c);
      ask(n);
      for (Index p = 0; p < r_.line_phases_; ++p) {
        const auto& taps = r_.phases_[p];
        for (std::size_t row = 0; row < r_.rows_.size(); row += kTogether) {
          void* to[kTogether];
          std::uint64_t places[kTogether];
          const int rows = static_cast<int>(std::min<std::size_t>(kTogether, r_.rows_.size() - row));
          for (int j = 0; j < rows; ++j) {
            to[j] = advance(sums, r_.rows_[row + j].start + p * r_.phase_ + c, k_.acc_size);
            places[j] = r_.rows_[row + j].place;
          }
          for (std::size_t t = 0; t < taps.size(); t += kTogether)
            k_.route(to, places, rows, advance(grad, c, k_.acc_size), advance(offsets, c, k_.acc_size), &taps[t],
                     static_cast<int>(std::min<std::size_t>(kTogether, taps.size() - t)), n);
        }
      }
    }
  }

  void ask(Index elements) {
    ahead_grad_.ask(elements * static_cast<Index>(k_.in_size));
    ahead_offsets_.ask(elements * static_cast<Index>(r_.offset_size_));
  }

  // Inputs of the first axis from emitted_ up to `end`; those behind the band were not reached.
  void emit_rows(Index end) {
    each_line(r_.axes_, input_, &Axis::in, emitted_, end, [&] {
      Index where = (input_[0] - origin_) * r_.steps_[0];
      bool reached = input_[0] < origin_ + r_.band_;
      for (int a = n_ - 2; a > 0; --a) {
        reached = reached && input_[a] + axis(a).before < axis(a).padded();
        where += (input_[a] + axis(a).before) * r_.steps_[a];
      }
      if (reached) emit_padded(advance(band_, where, k_.acc_size));
      else emit(zeros_, 0, last().in);
    });
    emitted_ = std::max(emitted_, end);
  }

  const Route& r_;
  const Kernels& k_;
  const int n_;
  const void* grad_;
  const void* offsets_;
  const Target out_;
  Index inner_;
  Strides base_{};
  std::vector<Index> output_, input_;

  Index guard_ = 0;                 // zeros on either side of lines_
  void *lines_ = nullptr, *wide_ = nullptr, *woven_ = nullptr, *zeros_ = nullptr, *band_ = nullptr;
  Index origin_ = 0, emitted_ = 0;  // the input that the band's first row stands for; those done
  std::vector<const void*> phases_;
  ReadAhead ahead_grad_, ahead_offsets_;
  void *finished_ = nullptr, *spare_ = nullptr;
  Scratch scratch_;
};

void Route::run(const void* grad, const void* offsets, void* grad_in) const {
  if (elements_ == 0) return;
  const int threads = elements_ < kParallelElements ? 1 : thread_count();
  const auto tasks =
      split(layout_, axes_.front().in, axes_.front().span(), inner_block_, threads);
  parallel(tasks, threads, [&] { return RouteWorker(*this, grad, offsets, grad_in); });
}

}  // namespace infinitypool
