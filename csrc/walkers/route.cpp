#include "route.hpp"

#include <bit>
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
constexpr Index kBandBytes = Index(512) << 10;  // of accumulators, to stay in the second cache
constexpr Index kInnerBlock = 4096;
constexpr Index kNowhere = std::numeric_limits<Index>::min();
enum Tensor { kGrad, kOffsets, kGradIn };

}  // namespace

Route::Route(const PoolArguments& a) {
  const int reducer = reducer_from(a.reducer);
  isa_ = &isa();
  kernels_ = isa_->find(reducer, a.dtype, Variant::values);
  if (!kernels_ || !kernels_->route) throw std::invalid_argument(a.reducer + " has no gradient to route");
  axes_ = axes_of(a);
  offset_size_ = offset_size(a);
  layout_ = layout_of(a.shape, {a.out_strides, a.offset_strides, a.in_strides}, a.axes, kGradIn);
  if (layout_.line_axis_added) axes_.push_back(Axis{});
  if (axes_.size() == 1) {  // a walk has outer axes and a line: give it an outer axis of one
    axes_.insert(axes_.begin(), Axis{});
    layout_.axes.insert(layout_.axes.begin(), Strides{});
  }

  window_ = 1;
  Index outputs = layout_.outer_count() * layout_.inner.size, inputs = outputs;
  for (const Axis& axis : axes_) {
    if (__builtin_mul_overflow(window_, axis.kernel, &window_)) throw std::bad_alloc();
    outputs *= axis.out;
    inputs *= axis.in;
    readers_.push_back(readers_of(axis));
  }
  elements_ = inputs ? inputs + outputs : 0;
  stream_ = static_cast<std::size_t>(inputs) * kernels_->out_size >= kStreamBytes;
  inner_block_ = layout_.line_axis_added ? std::min(layout_.inner.size, kInnerBlock) : layout_.inner.size;
  compares_ = window_ <= kCompareWindow && axes_.back().stride <= kCompareWindow;
  if (compares_) {
    const Axis& line = axes_.back();
    phases_.resize(line.stride);
    for (Index t = line.kernel; t-- > 0;)  // falling taps are rising outputs
      phases_[t * line.dilation % line.stride].push_back({t * line.dilation / line.stride, t});
    return;
  }

  // Accumulators of one input along the first axis, with the padding around the others.
  row_ = inner_block_;
  for (std::size_t i = axes_.size(); i-- > 1;)
    if (__builtin_mul_overflow(row_, axes_[i].padded(), &row_)) throw std::bad_alloc();
  const Index row_bytes = std::max<Index>(1, row_ * static_cast<Index>(kernels_->acc_size));
  band_ = std::max(kBandBytes / row_bytes, 2 * axes_.front().span());  // slides along

  if (axes_.front().span() > std::numeric_limits<std::int32_t>::max() / row_) throw std::bad_alloc();
  // An entry for every offset that one or two bytes can hold: no check is needed then.
  delta_.assign(offset_size_ == 1 ? 256 : offset_size_ == 2 ? 65536 : window_, 0);
  for (Index w = 0; w < window_; ++w) {
    Index left = w, step = inner_block_;
    for (std::size_t a = axes_.size(); a-- > 0;) {
      delta_[w] += static_cast<std::int32_t>(left % axes_[a].kernel * axes_[a].dilation * step);
      left /= axes_[a].kernel;
      step *= axes_[a].padded();
    }
  }
}

class RouteWorker {
 public:
  RouteWorker(const Route& r, const void* grad, const void* offsets, void* grad_in)
      : r_(r), k_(*r.kernels_), n_(static_cast<int>(r.axes_.size())), grad_(grad), offsets_(offsets),
        out_{grad_in, k_.out_size, r.layout_.axes.back()[kGradIn], r.layout_.inner.stride[kGradIn], r.stream_, r.isa_},
        inner_(r.inner_block_), output_(n_), input_(n_), scratch_([this](Scratch& s) { lay_out(s); }) {
    std::memset(zeros_, 0, zero_bytes_);
  }

  void run(const Task& task) {
    inner_ = task.inner_last - task.inner_first;
    base_ = r_.layout_.outer_offset(task.unit);
    for (int t = 0; t < kTensors; ++t) base_[t] += task.inner_first * r_.layout_.inner.stride[t];
    std::fill(held_.begin(), held_.end(), kNowhere);
    if (r_.compares_) compare(task.first, task.last);
    else look_up(task.first, task.last);
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
    if (r_.compares_) {
      guard_ = (line.span() - 1) / line.stride * inner;
      slot_ = columns + 2 * guard_;
      Index slots = 1;
      masks_.assign(n_, 0);
      for (int a = 0; a < n_ - 1; ++a) {
        Index most = 1;
        for (const Window& w : r_.readers_[a].table)
          most = std::max(most, w.count ? (w.count - 1) * r_.readers_[a].step + 1 : 1);
        const auto size = static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(most)));
        masks_[a] = size - 1;
        slots *= size;
      }
      held_.assign(slots, kNowhere);
      lines_ = s.take(slots * slot_, v);
      wide_ = s.take(slots * slot_, v);  // offsets as wide as accumulators
      phase_ = columns + guard_;
      const Index phases = std::min(line.stride, line.span());
      sums_ = s.take(phases * phase_, v);
      woven_ = s.take(line.stride == 1 ? 0 : (line.in + line.before) * inner, v);
      zeros_ = s.take(std::max(phase_, line.in * inner), v);
      spare_ = s.take(columns, r_.offset_size_);
      phases_.resize(line.stride);
    } else {
      band_ = s.take(r_.band_ * r_.row_, v);
      lines_ = s.take(columns, v);
      spare_ = s.take(columns, r_.offset_size_);
      zeros_ = s.take(line.in * inner, v);
    }
    zero_bytes_ = static_cast<std::size_t>(r_.compares_ ? std::max(phase_, line.in * inner) : line.in * inner) * v;
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

  // Calls visit() for every line of inputs or outputs whose first coordinate is in [first, end).
  template <class Visit>
  void each_line(std::vector<Index>& coordinate, Index Axis::*size, Index first, Index end, Visit visit) {
    for (int a = 1; a < n_ - 1; ++a) {
      coordinate[a] = 0;
      if (axis(a).*size == 0) return;
    }
    for (coordinate[0] = first; coordinate[0] < end;) {
      visit();
      int a = n_ - 2;
      while (a > 0 && ++coordinate[a] == axis(a).*size) coordinate[a--] = 0;
      if (a == 0) ++coordinate[0];
    }
  }

  // The line of sums whose first column stands for padding; inputs that no window reaches get 0.
  void emit_padded(const void* sums) {
    const Index columns = std::clamp<Index>(last().padded() - last().before, 0, last().in);
    if (columns) emit(advance(sums, last().before * inner_, k_.acc_size), 0, columns);
    if (columns < last().in) emit(zeros_, columns, last().in - columns);
  }

  // ------------------------------------------------------------------ small windows: compare

  void compare(Index first, Index end) {
    const Axis& line = last();
    each_line(input_, &Axis::in, first, end, [&] {
      readers_.clear();
      gather(0, 0);
      // All lines that read this one, a piece of columns at a time: its sums stay in the first cache.
      const Index columns = line.out * inner_ + guard_;
      for (Index c = 0; c < columns; c += kColumns) add(c, std::min(kColumns, columns - c));
      for (Index p = 0; p < line.stride; ++p)
        phases_[p] = !readers_.empty() && !r_.phases_[p].empty() ? advance(sums_, p * phase_, k_.acc_size) : zeros_;
      if (line.stride > 1) {
        k_.interleave(woven_, phases_.data(), line.stride, std::min(line.padded(), line.in + line.before), inner_);
        emit_padded(woven_);
      } else {
        emit_padded(phases_[0]);
      }
    });
  }

  // Collects every output line that reads the input line at input_, axis by axis.
  void gather(int a, std::uint64_t place) {
    if (a == n_ - 1) return collect(place);
    const Readers& readers = r_.readers_[a];
    const Window& w = readers.table[input_[a]];
    for (Index j = 0; j < w.count; ++j) {
      output_[a] = w.first + j * readers.step;
      gather(a + 1, place + static_cast<std::uint64_t>(w.tap - j * readers.tap_step) * axis(a).tap_place);
    }
  }

  void collect(std::uint64_t place) {
    Index slot = 0, id = 0;
    for (int a = 0; a < n_ - 1; ++a) {
      slot = slot * (masks_[a] + 1) + (output_[a] & masks_[a]);
      id = id * axis(a).out + output_[a];
    }
    char* grad = advance(lines_, slot * slot_ + guard_, k_.acc_size);
    char* offsets = advance(wide_, slot * slot_ + guard_, k_.acc_size);
    if (held_[slot] != id) {
      // Zero gradients around the line let every tap run over the whole of it.
      const Index columns = last().out * inner_;
      const std::size_t edge = static_cast<std::size_t>(guard_) * k_.acc_size;
      std::memset(grad - edge, 0, edge);
      std::memset(advance(grad, columns, k_.acc_size), 0, edge);
      load_grad(grad);
      k_.widen_offsets(offsets, offsets_line(spare_), r_.offset_size_, columns);
      held_[slot] = id;
    }
    readers_.push_back({grad, offsets, place});
  }

  // Adds columns [first, first + n) of every collected line to the sums.
  void add(Index first, Index n) {
    const Axis& line = last();
    const Index bytes = n / static_cast<Index>(readers_.size() + 1) + 64;
    for (Index p = 0; p < line.stride; ++p) {
      const auto& taps = r_.phases_[p];
      if (taps.empty()) continue;
      void* sums = advance(sums_, p * phase_ + first, k_.acc_size);
      bool fresh = true;
      for (const Reader& reader : readers_) {
        ahead_grad_.ask(bytes * static_cast<Index>(k_.in_size));
        ahead_offsets_.ask(bytes * static_cast<Index>(r_.offset_size_));
        const char* grad = advance(reader.grad, first, k_.acc_size);
        const char* offsets = advance(reader.offsets, first, k_.acc_size);
        for (std::size_t t = 0; t < taps.size(); t += 3) {
          Tap some[3];
          const int count = static_cast<int>(std::min<std::size_t>(3, taps.size() - t));
          for (int j = 0; j < count; ++j) {
            some[j].back = taps[t + j].back * inner_;
            some[j].place = reader.place + static_cast<std::uint64_t>(taps[t + j].tap) * line.tap_place;
          }
          k_.route(sums, fresh, grad, offsets, some, count, n);
          fresh = false;
        }
      }
    }
  }

  // ------------------------------------------------------------------ large windows: look up

  void look_up(Index first, Index end) {
    const Axis& top = axis(0);
    // Outputs whose windows touch [first, end).
    const auto floor_div = [](Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
    const Index low = std::max<Index>(0, floor_div(first + top.before - top.span(), top.stride) + 1);
    const Index high = std::min(top.out - 1, floor_div(end - 1 + top.before, top.stride));
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
      each_line(output_, &Axis::out, o, o + 1, [&] {
        Index where = (top.start(o) - origin_) * r_.row_, step = r_.inner_block_ * last().padded();
        for (int a = n_ - 2; a > 0; --a) {
          where += output_[a] * axis(a).stride * step;
          step *= axis(a).padded();
        }
        load_grad(lines_);
        ahead_grad_.ask(last().out * inner_ * static_cast<Index>(k_.in_size));
        ahead_offsets_.ask(last().out * inner_ * static_cast<Index>(r_.offset_size_));
        k_.scatter(advance(band_, where, k_.acc_size), lines_, offsets_line(spare_), r_.offset_size_,
                   r_.delta_.data(), r_.window_, last().out, last().stride * inner_, inner_);
      });
    }
    emit_rows(end);
  }

  // Inputs of the first axis from emitted_ up to `end`; those behind the band were not reached.
  void emit_rows(Index end) {
    each_line(input_, &Axis::in, emitted_, end, [&] {
      Index where = (input_[0] - origin_) * r_.row_, step = r_.inner_block_ * last().padded();
      bool reached = input_[0] < origin_ + r_.band_;
      for (int a = n_ - 2; a > 0; --a) {
        reached = reached && input_[a] + axis(a).before < axis(a).padded();
        where += (input_[a] + axis(a).before) * step;
        step *= axis(a).padded();
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

  // compare: lines of outputs with zeros around, and sums per phase of the stride
  std::vector<Index> held_, masks_;
  Index guard_ = 0, slot_ = 0, phase_ = 0;
  void *lines_ = nullptr, *wide_ = nullptr, *sums_ = nullptr, *woven_ = nullptr, *zeros_ = nullptr;
  std::vector<const void*> phases_;
  struct Reader { const char* grad; const char* offsets; std::uint64_t place; };
  std::vector<Reader> readers_;
  ReadAhead ahead_grad_, ahead_offsets_;

  // look up: a band of inputs with the padding around
  void* band_ = nullptr;
  Index origin_ = 0, emitted_ = 0;  // the input that its first row stands for; those done

  void *finished_ = nullptr, *spare_ = nullptr;
  std::size_t zero_bytes_ = 0;
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
