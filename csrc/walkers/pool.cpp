#include "pool.hpp"

#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "parallel.hpp"
#include "scratch.hpp"
#include "target.hpp"

namespace infinitypool {
namespace {

constexpr Index kStrip = 4096;       // elements of a line handled at a time: they stay in the first cache
constexpr Index kInnerBlock = 4096;  // the same for long inner runs
constexpr Index kNowhere = std::numeric_limits<Index>::min();

Index product(const std::vector<Index>& v) {
  Index n = 1;
  for (Index x : v)
    if (__builtin_mul_overflow(n, x, &n)) return std::numeric_limits<Index>::max();
  return n;
}

}  // namespace

std::size_t offset_size(const PoolArguments& a) {
  const Index window = product(a.kernel);
  return window <= 256 ? 1 : window <= 65536 ? 2 : window <= (Index(1) << 32) ? 4 : 8;
}

std::vector<Axis> axes_of(const PoolArguments& a) {
  const std::size_t n = a.axes.size();
  std::vector<Axis> axes(n);
  std::uint64_t tap = 1, input = 1;
  for (std::size_t i = n; i-- > 0;) {
    Axis& axis = axes[i];
    axis.in = a.shape[a.axes[i]];
    axis.out = a.out[i];
    axis.kernel = a.kernel[i];
    axis.stride = a.stride[i];
    axis.before = a.before[i];
    axis.after = a.after[i];
    axis.dilation = a.dilation[i];
    axis.tap_place = tap;
    axis.input_place = input;
    tap *= static_cast<std::uint64_t>(axis.kernel);
    input *= static_cast<std::uint64_t>(axis.in);
    if (a.divisor_override == 0) count_elements(axis, a.count_include_pad);
  }
  return axes;
}

Pool::Pool(const PoolArguments& a) {
  const ReducerInfo& info = reducers()[reducer_from(a.reducer)];
  axes_ = axes_of(a);
  const Index window = product(a.kernel);
  constexpr Index places31 = Index(1) << 31;
  Variant variant = Variant::values;
  if (a.places != Places::none) {
    std::vector<Index> plane;
    for (const Axis& axis : axes_) plane.push_back(axis.in);
    variant = window < places31 && product(plane) < places31 ? Variant::places : Variant::wide_places;
  } else if (!info.selects && window >= (Index(1) << 15)) {
    variant = Variant::wide_values;  // 2^15 elements of 16 bits still fit 31
  }
  places_ = a.places;
  place_out_size_ = a.places == Places::plane ? 8 : offset_size(a);
  divides_ = info.divides;
  truncate_ = a.truncate;
  plan(a, a.shape, a.in_strides, a.out_strides, variant);
}

Pool Pool::spread(const PoolArguments& a) {
  Pool p;
  p.divides_ = p.divides_on_load_ = reducers()[reducer_from(a.reducer)].divides;
  const auto forward = axes_of(a);
  Shape shape = a.shape;
  for (std::size_t i = 0; i < forward.size(); ++i) {
    shape[a.axes[i]] = forward[i].out;
    p.axes_.push_back(transpose(forward[i], i + 1 == forward.size()));
  }
  p.plan(a, shape, a.out_strides, a.in_strides, Variant::values);
  return p;
}

// `shape` is the shape of what is read, `from` and `to` are the strides of both sides.
void Pool::plan(const PoolArguments& a, const Shape& shape, const Shape& from, const Shape& to, Variant variant) {
  const int reducer = reducer_from(a.reducer);
  const bool overlapping = reducers()[reducer].idempotent;
  isa_ = &isa();
  kernels_ = isa_->find(reducer, a.dtype, variant);
  if (!kernels_) throw std::invalid_argument(a.reducer + " is not defined for " + name_of(a.dtype));
  divisor_ = static_cast<double>(a.divisor_override);
  layout_ = layout_of(shape, {from, to, to}, a.axes, divides_on_load_ ? 1 : 0);

  if (layout_.line_axis_added) axes_.push_back(Axis{});
  for (std::size_t i = 0; i < axes_.size(); ++i) {
    axes_[i].in_stride = layout_.axes[i][0];
    axes_[i].out_stride = layout_.axes[i][1];
    if (axes_[i].chain.empty() && axes_[i].table.empty()) prepare(axes_[i], overlapping);
  }
  if (layout_.line_axis_added) axes_.back().count = {1.0};

  const Axis& last = axes_.back();
  const Dim& inner = layout_.inner;
  inner_block_ = layout_.line_axis_added ? std::min(inner.size, kInnerBlock) : inner.size;
  raw_lines_ = kernels_->direct_load && !divides_on_load_ && last.spacing == 1 && last.regular() &&
               (inner.size == 1 || inner.stride[0] == 1) &&
               (last.in == 1 || last.in_stride == inner.size);
  raw_items_ = raw_lines_ && layout_.line_axis_added;
  column_divisor_ = divides_ && divisor_ == 0 && !last.constant_count;

  dense_out_ = inner.size == 1 || inner.stride[1] == 1;
  Index item = inner_block_, outputs = layout_.outer_count() * inner.size, inputs = outputs;
  for (std::size_t i = axes_.size(); i-- > 1;) {
    dense_out_ = dense_out_ && (axes_[i].out == 1 || axes_[i].out_stride == item);
    item *= axes_[i].out;
  }
  if (axes_.size() == 1) dense_out_ = dense_out_ && (axes_[0].out == 1 || axes_[0].out_stride == inner.size);
  if (layout_.line_axis_added && inner_block_ < inner.size && axes_.size() > 2) dense_out_ = false;
  for (const Axis& axis : axes_) outputs *= axis.out, inputs *= axis.in;
  elements_ = outputs + inputs;
  stream_ = static_cast<std::size_t>(outputs) * kernels_->out_size >= kStreamBytes;
}

// The pooled sub-arrays that a window along one of the outer axes reads, remembered while later
// windows may read them again.
struct Ring {
  Line lines;
  Index mask = 0;
  std::vector<Index> held;
};

class PoolWorker {
 public:
  PoolWorker(const Pool& p, const void* in, void* out, void* places)
      : p_(p), k_(*p.kernels_), n_(static_cast<int>(p.axes_.size())), in_(in),
        out_{out, k_.out_size, last().out_stride, p.layout_.inner.stride[1], p.stream_, p.isa_},
        places_{places, p.place_out_size_, last().out_stride, p.layout_.inner.stride[1], p.stream_, p.isa_},
        inner_(p.inner_block_), states_(p.axes_.size()), scratch_([this](Scratch& s) { lay_out(s); }) {
    coordinate_.resize(n_);
    for (const Axis& axis : p_.axes_) clips_ = clips_ || axis.may_clip();
  }

  void run(const Task& task) {
    const Strides offset = p_.layout_.outer_offset(task.unit);
    inner_ = task.inner_last - task.inner_first;
    const Index in0 = offset[0] + task.inner_first * p_.layout_.inner.stride[0];
    out_base_ = offset[1] + task.inner_first * p_.layout_.inner.stride[1];
    sizes();
    const char* src = advance(in_, in0, k_.in_size);
    if (n_ == 1) return run_line(src, task.first, task.last);
    forget(0);
    for (Index o = task.first; o < task.last; ++o) {
      Term terms[3];
      const int count = window(0, o, src, terms);
      emit_item(o, terms, count);
    }
  }

 private:
  struct State {
    std::vector<Ring> rings;  // per level of the chain, the last excepted
    Line partial[2];          // of windows that are listed
    Index item = 0;           // elements of one input item of this axis
    Index capacity = 0;       // the same for the largest inner block
  };

  const Axis& last() const { return p_.axes_.back(); }

  // ------------------------------------------------------------------ buffers

  void lay_out(Scratch& s) {
    const Axis& line = last();
    const Index inner = p_.inner_block_;
    const std::size_t v = k_.acc_size, q = k_.place_size;
    Index item = inner * line.out;
    for (int a = n_ - 2; a >= 0; --a) {
      State& state = states_[a];
      const Axis& axis = p_.axes_[a];
      state.item = state.capacity = item;
      const auto add = [&](std::size_t level, Index positions) {
        if (state.rings.size() <= level) state.rings.resize(level + 1);
        Ring& ring = state.rings[level];
        const Index slots = std::bit_ceil(static_cast<std::uint64_t>(std::max<Index>(1, positions)));
        ring.mask = slots - 1;
        ring.lines = s.line(slots * item, v, q);
        ring.held.assign(slots, kNowhere);
      };
      if (axis.regular()) {
        // How far ahead of a window's start each level is still read.
        std::vector<Index> reach(axis.chain.size() + 1, 0);
        for (std::size_t level = axis.chain.size(); level > 0; --level) {
          const Step& step = axis.chain[level - 1];
          for (int j = 0; j < step.count; ++j) {
            Index& r = reach[step.parts[j].level];
            r = std::max(r, reach[level] + step.parts[j].shift * axis.dilation);
          }
        }
        for (std::size_t level = 0; level < axis.chain.size(); ++level) {
          const Index width = level ? (axis.chain[level - 1].width - 1) * axis.dilation : 0;
          add(level, std::min(reach[level] + 1, axis.in + width));
        }
      } else {
        Index longest = 1;
        for (const Window& w : axis.table) longest = std::max(longest, (w.count - 1) * axis.table_step + 1);
        add(0, std::min(longest, axis.in));
        for (Line& partial : state.partial) partial = s.line(item, v, q);
      }
      item *= axis.out;
    }

    Index raw;
    if (line.regular()) {
      const Index halo = line.span();
      columns_ = std::max<Index>(1, (std::max(kStrip / inner, 2 * halo) - halo) / line.stride + 1);
      columns_ = std::min(columns_, std::max<Index>(line.out, 1));
      raw = ((columns_ - 1) * line.stride + halo) * inner;
    } else {
      columns_ = std::max<Index>(line.out, 1);
      raw = line.in * inner;
    }
    raw_ = {s.take(raw, v), nullptr};
    if (q) {
      place_run_ = s.take(raw, q);
      place_edge_ = s.take(raw, q);
      if (place_run_) fill_places(place_run_, 0, raw / inner, false);
    }
    const std::size_t levels = line.regular() ? line.chain.size() : 1;
    levels_.resize(levels);
    for (std::size_t i = 1; i < levels; ++i) levels_[i] = s.line(raw, v, q);
    chunk_ = std::max(kStrip, inner);
    result_ = s.line(chunk_, v, q);
    finished_ = s.take(chunk_, k_.out_size);
    if (q) narrowed_ = s.take(chunk_, p_.place_out_size_);
  }

  void sizes() {
    Index item = inner_ * last().out;
    for (int a = n_ - 2; a >= 0; --a) {
      states_[a].item = item;
      item *= p_.axes_[a].out;
    }
  }

  void forget(int a) {
    for (Ring& ring : states_[a].rings) std::fill(ring.held.begin(), ring.held.end(), kNowhere);
  }

  // ------------------------------------------------------------------ outer axes

  // The terms whose merge is output o of axis a; none if its window is all padding.
  int window(int a, Index o, const char* src, Term* terms) {
    const Axis& axis = p_.axes_[a];
    if (axis.regular()) return parts(a, axis.chain.back(), axis.start(o), src, terms);
    const Window& w = axis.table[o];
    int count = 0;
    Line* free = states_[a].partial;
    for (Index j = 0; j < w.count; ++j) {
      if (count == 3) {  // fold what there is, and go on from there
        k_.merge(*free, terms, 3, states_[a].item);
        terms[0] = {free->value, free->place, 0};
        count = 1;
        free = free == states_[a].partial ? free + 1 : states_[a].partial;
      }
      const Index i = w.first + j * axis.table_step;
      terms[count] = item(a, 0, i, src);
      terms[count++].shift = place_shift(axis, 0, i, w.tap + j);
    }
    return count;
  }

  int parts(int a, const Step& step, Index position, const char* src, Term* terms) {
    const Axis& axis = p_.axes_[a];
    int count = 0;
    for (int j = 0; j < step.count; ++j) {
      const auto [level, shift] = step.parts[j];
      const Index i = position + shift * axis.dilation;
      const Index reach = level ? (axis.chain[level - 1].width - 1) * axis.dilation : 0;
      if (i >= axis.in || i + reach < 0) continue;  // all padding
      terms[count] = item(a, level, i, src);
      terms[count++].shift = place_shift(axis, level, i, shift);
    }
    return count;
  }

  std::uint64_t place_shift(const Axis& axis, int level, Index input, Index tap) const {
    if (p_.places_ == Places::offset) return static_cast<std::uint64_t>(tap) * axis.tap_place;
    return level == 0 ? static_cast<std::uint64_t>(input) * axis.input_place : 0;
  }

  Term item(int a, int level, Index i, const char* src) {
    const Axis& axis = p_.axes_[a];
    State& state = states_[a];
    if (level == 0 && a == n_ - 2 && p_.raw_items_)
      return {advance(src, i * axis.in_stride, k_.in_size), place_run_, 0};
    Ring& ring = state.rings[level];
    const Index slot = (i + axis.before) & ring.mask;
    const Line line = advance(ring.lines, slot * state.capacity, k_);
    if (ring.held[slot] != i) {
      if (level == 0) {
        coordinate_[a] = i;
        produce(a + 1, advance(src, i * axis.in_stride, k_.in_size), line);
      } else {
        Term terms[3];
        const int count = parts(a, axis.chain[level - 1], i, src, terms);
        if (count) k_.merge(line, terms, count, state.item);
        else k_.fill(line, state.item);
      }
      ring.held[slot] = i;
    }
    return {line.value, line.place, 0};
  }

  // All outputs of axis a, one after another.
  void produce(int a, const char* src, Line dst) {
    if (a == n_ - 1) return line(src, dst, 0, last().out);
    forget(a);
    for (Index o = 0; o < p_.axes_[a].out; ++o) {
      Term terms[3];
      const int count = window(a, o, src, terms);
      if (count) k_.merge(dst, terms, count, states_[a].item);
      else k_.fill(dst, states_[a].item);
      dst = advance(dst, states_[a].item, k_);
    }
  }

  // ------------------------------------------------------------------ the last axis

  void line(const char* src, Line dst, Index first, Index end) {
    const Axis& axis = last();
    if (!axis.regular()) return listed_line(src, dst, first, end);
    for (Index o = first; o < end; o += columns_) {
      const Index n = std::min(columns_, end - o);
      strip(src, dst, o, n);
      dst = advance(dst, n * inner_, k_);
    }
  }

  Runs runs(Index columns) const {
    const Dim& inner = p_.layout_.inner;
    return {columns, last().in == 1 ? inner_ : last().in_stride, inner_, inner.stride[0]};
  }

  void load(void* dst, Index pitch, const char* src, Index first, Index columns) {
    if (columns <= 0) return;
    src = advance(src, first * last().in_stride, k_.in_size);
    if (!p_.divides_on_load_) return k_.load(dst, pitch, src, runs(columns));
    Divisor by = divisor(coordinate_.data());
    if (by.column) by.column += first;
    k_.load_divided(dst, pitch, src, runs(columns), by);
  }

  void strip(const char* src, Line dst, Index first, Index n) {
    const Axis& axis = last();
    const Index low = axis.start(first);
    const Index length = (n - 1) * axis.stride + axis.span();
    const Index inside_low = std::max<Index>(low, 0), inside_high = std::min(low + length, axis.extent());
    const bool inside = low >= 0 && low + length <= axis.extent();

    const void* base = raw_.value;
    if (inside && p_.raw_lines_) {
      base = advance(src, low * axis.in_stride, k_.in_size);
    } else if (inside_low >= inside_high) {
      k_.fill({raw_.value, nullptr}, length * inner_);
    } else {
      if (axis.spacing > 1) {
        k_.fill({raw_.value, nullptr}, length * inner_);
      } else {
        k_.fill({raw_.value, nullptr}, (inside_low - low) * inner_);
        k_.fill({advance(raw_.value, (inside_high - low) * inner_, k_.acc_size), nullptr},
                (low + length - inside_high) * inner_);
      }
      const Index begin = (inside_low + axis.spacing - 1) / axis.spacing;
      const Index end = (inside_high - 1) / axis.spacing + 1;
      load(advance(raw_.value, (begin * axis.spacing - low) * inner_, k_.acc_size), axis.spacing * inner_, src, begin,
           end - begin);
    }

    const void* places = place_run_;
    if (k_.place_size && !inside) {
      if (edge_low_ != low || edge_length_ != length || edge_inner_ != inner_) {
        fill_places(place_edge_, low, length, true);
        edge_low_ = low, edge_length_ = length, edge_inner_ = inner_;
      }
      places = place_edge_;
    }

    const std::size_t steps = axis.chain.size();
    for (std::size_t s = 0; s < steps; ++s) {
      const Step& step = axis.chain[s];
      Term terms[3];
      for (int j = 0; j < step.count; ++j) {
        const auto [level, shift] = step.parts[j];
        const Index ahead = shift * axis.dilation * inner_;
        Term t = level ? Term{levels_[level].value, levels_[level].place, 0} : Term{base, places, 0};
        t = advance(t, ahead, k_);
        if (p_.places_ == Places::offset) t.shift = static_cast<std::uint64_t>(shift) * axis.tap_place;
        else if (level == 0 && inside) t.shift = static_cast<std::uint64_t>(low) * axis.input_place;
        terms[j] = t;
      }
      if (s + 1 == steps) k_.merge_strided(dst, terms, step.count, n, axis.stride, inner_);
      else k_.merge(levels_[s + 1], terms, step.count, (length - (step.width - 1) * axis.dilation) * inner_);
    }
  }

  void listed_line(const char* src, Line dst, Index first, Index end) {
    const Axis& axis = last();
    load(raw_.value, inner_, src, 0, axis.in);
    for (Index o = first; o < end; ++o) {
      const Window& w = axis.table[o];
      Term t{raw_.value, place_run_, 0};
      t = advance(t, w.first * inner_, k_);
      const bool offsets = p_.places_ == Places::offset;
      if (offsets) t.shift = static_cast<std::uint64_t>(w.tap) * axis.tap_place;
      if (w.count > 0) k_.fold(dst, t, w.count, axis.table_step * inner_, inner_, offsets ? axis.tap_place : 0);
      else k_.fill(dst, inner_);
      dst = advance(dst, inner_, k_);
    }
  }

  // Places before any merge: 0 (offsets) or the column (positions). At an edge, where padding is
  // marked, columns are absolute: a shift by a negative start would unmark it.
  void fill_places(void* dst, Index low, Index columns, bool mark) {
    const Axis& axis = last();
    const auto write = [&](auto* p) {
      using P = std::remove_pointer_t<decltype(p)>;
      for (Index c = 0; c < columns; ++c) {
        P place = p_.places_ == Places::offset ? P(0) : static_cast<P>(static_cast<std::uint64_t>(low + c) * axis.input_place);
        if (mark && (low + c < 0 || low + c >= axis.in)) place = kPadding<P>;
        for (Index i = 0; i < inner_; ++i) *p++ = place;
      }
    };
    if (k_.place_size == 4) write(static_cast<std::uint32_t*>(dst));
    else write(static_cast<std::uint64_t*>(dst));
  }

  // ------------------------------------------------------------------ results

  Divisor divisor(const Index* coordinate) const {
    if (p_.divisor_ != 0) return {nullptr, p_.divisor_, p_.truncate_};
    Divisor by{nullptr, 1.0, p_.truncate_};
    for (int a = 0; a < n_ - 1; ++a) by.scale *= p_.axes_[a].count[coordinate[a]];
    if (p_.column_divisor_) by.column = last().count.data();
    else if (!last().count.empty()) by.scale *= last().count[0];
    return by;
  }

  void run_line(const char* src, Index first, Index end) {
    const Index step = std::max<Index>(1, chunk_ / inner_);
    for (Index o = first; o < end; o += step) {
      const Index n = std::min(step, end - o);
      const Line to = target(nullptr, o, n);
      line(src, to, o, o + n);
      emit(nullptr, o, n, to);
    }
  }

  // The item of output o of the first axis, line by line (or as one line where nothing asks for less).
  void emit_item(Index o, const Term* terms, int count) {
    coordinate_[0] = o;
    for (int a = 1; a < n_; ++a) coordinate_[a] = 0;
    const Index line = last().out * inner_;
    const Index step = std::max<Index>(1, chunk_ / inner_);
    Index done = 0;
    const Index total = states_[0].item;
    if (line == 0) return;
    while (done < total) {
      for (Index c = 0; c < last().out; c += step) {
        const Index n = std::min(step, last().out - c);
        Term piece[3];
        for (int j = 0; j < count; ++j) piece[j] = advance(terms[j], done + c * inner_, k_);
        const Line to = target(coordinate_.data(), c, n);
        if (count) k_.merge(to, piece, count, n * inner_);
        else k_.fill(to, n * inner_);
        emit(coordinate_.data(), c, n, to);
      }
      done += line;
      for (int a = n_ - 2; a > 0 && ++coordinate_[a] == p_.axes_[a].out; --a) coordinate_[a] = 0;
    }
  }

  // Where columns [first, ...) of the line at `coordinate` go.
  Index address(const Index* coordinate, Index first) const {
    Index where = out_base_ + first * last().out_stride;
    for (int a = 0; a < n_ - 1; ++a) where += coordinate[a] * p_.axes_[a].out_stride;
    return where;
  }

  bool finishes() const { return !k_.direct_finish || (p_.divides_ && !p_.divides_on_load_); }

  // Where n columns are merged to: the output itself if nothing is left to do with them.
  Line target(const Index* coordinate, Index first, Index n) const {
    if (finishes() || out_.streams || !out_.contiguous(n, inner_)) return result_;
    return {out_.at(address(coordinate, first)), result_.place};
  }

  // Columns [first, first + n) of the line at `coordinate`.
  void emit(const Index* coordinate, Index first, Index n, Line result) {
    const Index where = address(coordinate, first);
    const void* values = result.value;
    if (finishes()) {
      const bool divide = p_.divides_ && !p_.divides_on_load_;
      Divisor by;
      if (divide) {
        by = divisor(coordinate);
        if (by.column) by.column += first;
      }
      void* to = out_.contiguous(n, inner_) && !out_.streams ? out_.at(where) : finished_;
      k_.finish(to, values, n, inner_, divide ? &by : nullptr);
      values = to;
    }
    out_.store(where, values, n, inner_);

    if (k_.place_size) {
      if (clips_ && k_.any_padding(result.place, n * inner_)) repair(coordinate, first, n, result.place);
      k_.narrow_places(narrowed_, p_.place_out_size_, result.place, n * inner_);
      places_.store(where, narrowed_, n, inner_);
    }
  }

  // Padding equals the least element. Where it won the tie, every element of the window is least,
  // and the first one inside the input is the winner; without one there is no winner.
  void repair(const Index* coordinate, Index first, Index n, void* places) {
    const auto fix = [&](auto* p) {
      using P = std::remove_pointer_t<decltype(p)>;
      for (Index c = 0; c < n; ++c)
        for (Index i = 0; i < inner_; ++i, ++p) {
          if (!(*p & kPadding<P>)) continue;
          std::uint64_t place = 0;
          bool empty = false;
          for (int a = 0; a < n_; ++a) {
            const Axis& axis = p_.axes_[a];
            const Window w = axis.valid(a == n_ - 1 ? first + c : coordinate[a]);
            empty = empty || w.count == 0;
            place += p_.places_ == Places::offset ? static_cast<std::uint64_t>(w.tap) * axis.tap_place
                                                  : static_cast<std::uint64_t>(w.first) * axis.input_place;
          }
          *p = empty ? (p_.places_ == Places::offset ? P(0) : P(-1)) : static_cast<P>(place);
        }
    };
    if (k_.place_size == 4) fix(static_cast<std::uint32_t*>(places));
    else fix(static_cast<std::uint64_t*>(places));
  }

  const Pool& p_;
  const Kernels& k_;
  const int n_;
  const void* in_;
  const Target out_, places_;
  Index inner_, columns_ = 1, chunk_ = 1, out_base_ = 0;
  bool clips_ = false;
  std::vector<State> states_;
  std::vector<Line> levels_;
  std::vector<Index> coordinate_;
  Line raw_, result_;
  void *place_run_ = nullptr, *place_edge_ = nullptr, *finished_ = nullptr,
       *narrowed_ = nullptr;
  Index edge_low_ = kNowhere, edge_length_ = 0, edge_inner_ = 0;
  Scratch scratch_;
};

void Pool::run(const void* in, void* out, void* places) const {
  const Axis& first = axes_.front();
  const int threads = elements_ < kParallelElements ? 1 : thread_count();
  const Index halo = axes_.size() == 1 ? kStrip / 2 : (first.regular() ? first.span() / std::max<Index>(first.stride, 1) : 1);
  const auto tasks = split(layout_, first.out, halo, first.out, inner_block_, threads);
  parallel(tasks, threads, [&] { return PoolWorker(*this, in, out, places); });
}

}  // namespace infinitypool
