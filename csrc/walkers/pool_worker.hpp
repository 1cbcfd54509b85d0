// What one thread does for a planned pooling: its buffers, and the walk from inputs to results.
#pragma once

#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "pool.hpp"
#include "scratch.hpp"
#include "target.hpp"

namespace infinitypool {

// Bytes of accumulators handled at a time.
inline constexpr Index kStripBytes = Index(16) << 10;  // of a line: its pieces stay in the first cache
inline constexpr Index kSheetBytes = Index(16) << 10;  // of several short lines
inline constexpr Index kBlockBytes = Index(128) << 10;  // of the pooled lines behind a block of results
inline constexpr Index kPieceBytes = Index(4) << 10;   // of results on their way out
inline constexpr Index kRowsBytes = Index(64) << 10;  // of a line that others are merged into
inline constexpr Index kRowsBlock = 16;  // lines that are summed one after another; their sums in pairs
inline constexpr Index kShortWindow = 64;  // listed windows up to this length are read from a whole line
inline constexpr Index kNowhere = std::numeric_limits<Index>::min();

// The pooled sub-arrays along an outer axis, or pieces of windows built from them, one after another
// in memory: a window along the axis is then a merge of long runs. Slides along as the walk advances.
struct Reel {
  Line items = {};
  Index capacity = 0;
  Index first = 0, end = 0;  // the positions it holds
};

class PoolWorker {
 public:
  PoolWorker(const Pool& p, const void* in, void* out, void* places, const std::uint8_t* mask, const Index* starts)
      : p_(p), own_axes_(starts ? p.axes_ : std::vector<Axis>{}), axes_(starts ? own_axes_ : p.axes_), k_(*p.kernels_),
        n_(static_cast<int>(axes_.size())), in_(in), mask_(mask), starts_(starts),
        out_{out, k_.out_size, last().out_stride, p.layout_.inner.stride[1], p.stream_, p.isa_},
        places_{places, p.place_out_size_, last().out_stride, p.layout_.inner.stride[1], p.stream_, p.isa_},
        inner_(p.inner_block_), states_(p.axes_.size()), coordinate_(n_),
        scratch_([this](Scratch& s) { lay_out(s); }) {
    for (const Axis& axis : axes_) clips_ = clips_ || axis.may_clip();
  }

  void run(const Task& task) {
    if (starts_)
      for (int a = 0; a < n_; ++a) place(own_axes_[a], starts_ + (task.unit * n_ + a) * p_.starts_);
    const Strides offset = p_.layout_.outer_offset(task.unit);
    inner_ = task.inner_last - task.inner_first;
    Index item = inner_ * last().out;
    for (int a = n_ - 2; a >= 0; --a) {
      states_[a].item = item;
      item *= axes_[a].out;
    }
    in_base_ = offset[0] + task.inner_first * p_.layout_.inner.stride[0];
    out_base_ = offset[1] + task.inner_first * p_.layout_.inner.stride[1];
    const char* src = advance(in_, in_base_, k_.in_size);
    if (n_ == 1) return run_line(src, task.first, task.last);
    if (states_[0].item == 0) return;
    each_block(0, task.first, task.last, src,
               [this](Index o, Index n, const Term* terms, int count) { emit_block(o, n, terms, count); });
  }

 private:
  struct State {
    std::vector<Reel> reels;  // per level of the chain, the last excepted
    Line partial[2] = {};     // of windows that are listed
    Line alike = {};          // the result of several equal windows, once for each of them
    Index item = 0;           // elements of one item
    Index block = 1;          // outputs at a time
    Index floor = 0;          // the lowest input that the current block reads
    Index dirty = kNowhere;   // the last input that may hold a NaN
  };

  const Axis& last() const { return axes_.back(); }
  bool tracks() const { return p_.places_ != Places::none; }

  // ------------------------------------------------------------------ buffers

  void lay_out(Scratch& s) {
    const Axis& line = last();
    const Index inner = p_.inner_block_;
    const std::size_t v = k_.acc_size, q = k_.place_size;
    const auto elements = [&](Index bytes) { return bytes / static_cast<Index>(v); };
    const Index block = elements(kBlockBytes);
    Index item = inner * line.out;
    for (int a = n_ - 2; a >= 0; --a) {
      State& state = states_[a];
      const Axis& axis = axes_[a];
      state.block = 1;
      if (a == n_ - 2 && p_.rows_first_) {
        lay_out_rows(s, axis, item);
        item *= axis.out;
        continue;
      }
      Index held = 1;  // positions that one block reads
      if (axis.regular()) {
        // Lines between far windows are not worth pooling.
        if (axis.stride <= 2 * axis.span())
          state.block = std::clamp<Index>(block / std::max<Index>(1, item), 1, std::max<Index>(1, axis.out));
        held = (state.block - 1) * axis.stride + axis.span();
      } else {
        Index longest = 1, run = 1;
        for (std::size_t o = 1; o < axis.table.size(); ++o) {
          run = axis.table[o] == axis.table[o - 1] ? run + 1 : 1;
          longest = std::max(longest, run);
        }
        state.block = std::clamp<Index>(block / std::max<Index>(1, item), 1, longest);
        if (state.block > 1) state.alike = s.line(state.block * item, v, q);
        for (std::size_t o = 0; o < axis.table.size(); ++o)
          if (const Window& w = axis.table[o]; w.count)
            held = std::max(held, w.first + (w.count - 1) * axis.table_step + 1 - axis.table_floor[o]);
        for (Line& partial : state.partial) partial = s.line(item, v, q);
      }
      state.reels.resize(axis.regular() ? axis.chain.size() : 1);
      for (Reel& reel : state.reels) {
        // With room to spare: what is still read moves to the front once in a while.
        reel.capacity = held == 1 ? 1 : 2 * held;
        reel.items = s.line(reel.capacity * item, v, q);
      }
      item *= axis.out;
    }

    Index raw;
    if (line.regular()) {
      const Index halo = line.span();
      columns_ = std::max<Index>(1, (std::max(elements(kStripBytes) / inner, 4 * halo) - halo) / line.stride + 1);
      const Index lines = p_.flat_lines_ ? axes_[n_ - 2].in : 1;
      columns_ = std::min(columns_, std::max<Index>(line.out * lines, 1));
      raw = ((columns_ - 1) * line.stride + halo) * inner;
      if (n_ > 1 && columns_ >= line.out && !p_.flat_lines_ && !(p_.raw_lines_ && !line.may_clip())) {
        lines_ = std::clamp<Index>(elements(kSheetBytes) / std::max<Index>(1, raw), 1, 16);
        raw *= lines_;
      }
    } else {
      Index longest = 1;
      for (const Window& w : line.table) longest = std::max(longest, w.count);
      columns_ = std::clamp<Index>(elements(kStripBytes) / inner, 1, longest);
      raw = columns_ * inner;
      whole_line_ = longest <= kShortWindow && line.in * inner <= 4 * elements(kStripBytes);
      if (whole_line_) raw = line.in * inner;
    }
    raw_ = s.line(raw, v, p_.counted_ ? q : 0);
    if (p_.masked_) admitted_ = static_cast<std::uint8_t*>(s.take(raw, 1));
    levels_.resize(line.regular() ? line.chain.size() : 1);
    if (!line.regular()) levels_[0] = s.line(inner, v, q);
    for (std::size_t i = 1; i < levels_.size(); ++i) levels_[i] = s.line(raw, v, q);
    chunk_ = std::max(elements(kPieceBytes), inner);
    result_ = s.line(chunk_, v, q);
    finished_ = s.take(chunk_, k_.out_size);
    if (tracks()) narrowed_ = s.take(chunk_, p_.place_out_size_);
  }

  void lay_out_rows(Scratch& s, const Axis& axis, Index item) {
    const std::size_t v = k_.acc_size, q = p_.counted_ ? k_.place_size : 0;
    const Index line = last().in * p_.inner_block_;
    piece_ = std::min(line, std::max<Index>(1, kRowsBytes / static_cast<Index>(v)));
    Index blocks = (axis.kernel + kRowsBlock - 1) / kRowsBlock;
    for (sums_.clear(); blocks > 0; blocks /= 2) sums_.push_back(s.line(piece_, v, q));
    sums_.push_back(s.line(piece_, v, q));  // where two of them meet
    for (Line& row : rows_) row = s.line(piece_, v, q);
    states_[n_ - 2].partial[0] = s.line(item, v, k_.place_size);
    padded_ = std::max(last().padded(), last().before + last().in);
    merged_ = s.line(padded_ * p_.inner_block_, v, q);
  }

  // ------------------------------------------------------------------ outer axes

  // Calls visit(o, n, terms, count) for blocks of outputs: their windows are the merge of the terms,
  // each a run of n items, the axis's stride apart. No terms: the windows are all padding.
  template <class Visit>
  void each_block(int a, Index first, Index end, const char* src, Visit visit) {
    const Axis& axis = axes_[a];
    State& state = states_[a];
    Term terms[kTerms];
    if (a == n_ - 2 && p_.rows_first_) {
      clean_ = false;
      for (Index o = first; o < end; ++o) {
        coordinate_[a] = o;
        const bool any = merge_rows(axis.valid(o), src, state.partial[0]);
        set(terms[0], state.partial[0].value, state.partial[0].place, 0, k_);
        visit(o, 1, terms, any);
      }
      return;
    }
    if (!axis.regular()) {
      rewind(a, 0);
      Index n = 1;
      for (Index o = first; o < end; o += n) {
        for (n = 1; n < state.block && o + n < end && axis.table[o + n] == axis.table[o];) ++n;
        int count = listed(a, o, src, terms);
        clean_ = false;
        if (n > 1 && count) {  // the transpose of a high window: many alike
          k_.merge[0](state.alike, terms, count, state.item);
          repeat(state.alike, state.item, n);
          set(terms[0], state.alike.value, state.alike.place, 0, k_);
          count = 1;
        }
        visit(o, n, terms, count);
      }
      return;
    }
    rewind(a, axis.start(first));
    const int top = static_cast<int>(axis.chain.size());
    for (Index o = first; o < end; o += state.block) {
      const Index n = std::min(state.block, end - o);
      const Index floor = axis.start(o);
      state.floor = floor;
      const int count = pieces(a, top, floor, floor + (n - 1) * axis.stride + 1, src, terms);
      clean_ = clean(a);
      visit(o, n, terms, count);
    }
  }

  bool clean(int a) const { return p_.omits_ || (p_.scans_ && states_[a].dirty < states_[a].floor); }

  void rewind(int a, Index position) {
    states_[a].dirty = kNowhere;
    for (Reel& reel : states_[a].reels) reel.first = reel.end = position;
  }

  // The parts of which level `level` is merged at positions [first, end).
  int pieces(int a, int level, Index first, Index end, const char* src, Term* terms) {
    const Axis& axis = axes_[a];
    const Step& step = axis.chain[level - 1];
    for (int j = 0; j < step.count; ++j) {
      const auto [part, shift] = step.parts[j];
      extend(a, part, end + shift * axis.dilation, src);
    }
    for (int j = 0; j < step.count; ++j) {
      const auto [part, shift] = step.parts[j];
      held(terms[j], a, part, first + shift * axis.dilation);
      terms[j].shift = static_cast<std::uint64_t>(shift) * axis.tap_place;
    }
    return step.count;
  }

  void held(Term& term, int a, int level, Index position) const {
    const Reel& reel = states_[a].reels[level];
    set(term, reel.items.value, reel.items.place, (position - reel.first) * states_[a].item, k_);
  }

  // The lowest position of a level that is still read: by the next pieces of the levels built on it.
  Index floor_of(int a, int level) const {
    const Axis& axis = axes_[a];
    const State& state = states_[a];
    if (!axis.regular()) return state.floor;
    const std::size_t top = axis.chain.size();
    Index floor = std::numeric_limits<Index>::max();
    for (std::size_t user = level + 1; user <= top; ++user) {
      const Step& step = axis.chain[user - 1];
      for (int j = 0; j < step.count; ++j)
        if (step.parts[j].level == level)
          floor = std::min(floor, (user == top ? state.floor : state.reels[user].end) + step.parts[j].shift * axis.dilation);
    }
    return floor;
  }

  // Makes level `level` hold every position up to `end` that is still read.
  void extend(int a, int level, Index end, const char* src) {
    const State& state = states_[a];
    Reel& reel = states_[a].reels[level];
    if (reel.end >= end) return;
    const Index floor = floor_of(a, level);
    if (reel.end < floor) reel.first = reel.end = floor;
    if (end - reel.first > reel.capacity) {
      const Index from = (floor - reel.first) * state.item, kept = (reel.end - floor) * state.item;
      const Line at = advance(reel.items, from, k_);
      std::memmove(reel.items.value, at.value, static_cast<std::size_t>(kept) * k_.acc_size);
      if (at.place) std::memmove(reel.items.place, at.place, static_cast<std::size_t>(kept) * k_.place_size);
      reel.first = floor;
    }
    const Line to = advance(reel.items, (reel.end - reel.first) * state.item, k_);
    if (level == 0) {
      load_items(a, reel.end, end, src, to);
    } else {
      Term terms[kTerms];
      const int count = pieces(a, level, reel.end, end, src, terms);
      k_.merge[clean(a)](to, terms, count, (end - reel.end) * state.item);
    }
    reel.end = end;
  }

  // Level 0: inputs [first, end) of axis a, pooled along all later axes.
  void load_items(int a, Index first, Index end, const char* src, Line dst) {
    const Axis& axis = axes_[a];
    const Index item = states_[a].item;
    for (Index i = first; i < end;) {
      if (i < 0 || i >= axis.extent()) {
        const Index until = i < 0 ? std::min<Index>(end, 0) : end;
        k_.fill(dst, (until - i) * item);
        dst = advance(dst, (until - i) * item, k_);
        i = until;
        continue;
      }
      if (axis.spacing > 1 && i % axis.spacing) {  // between the inputs of a transposed stride
        k_.fill(dst, item);
        dst = advance(dst, item, k_);
        ++i;
        continue;
      }
      const char* from = advance(src, i / axis.spacing * axis.in_stride, k_.in_size);
      coordinate_[a] = i / axis.spacing;
      const Index dirty = dirty_lines_;
      Index n = 1;
      if (a == n_ - 2 && p_.flat_lines_) {  // no window crosses from one line to the next
        n = std::min(end, axis.extent()) - i;
        line(from, dst, 0, n * last().out, n * last().in);
      } else if (a == n_ - 2 && lines_ > 1) {
        n = axis.spacing > 1 ? 1 : std::min(std::min(end, axis.in) - i, lines_);
        strip(from, dst, 0, last().out, last().extent(), n, axis.in_stride);
      } else {
        produce(a + 1, from, dst);
      }
      dst = advance(dst, n * item, k_);
      i += n;
      if (dirty_lines_ != dirty) states_[a].dirty = i - 1;
    }
  }

  int listed(int a, Index o, const char* src, Term* terms) {
    const Axis& axis = axes_[a];
    const Window& w = axis.table[o];
    states_[a].floor = axis.table_floor[o];
    if (w.count) extend(a, 0, w.first + (w.count - 1) * axis.table_step + 1, src);
    int count = 0;
    Line* free = states_[a].partial;
    for (Index j = 0; j < w.count; ++j) {
      if (count == kTerms) {  // fold what there is, and go on from there
        k_.merge[0](*free, terms, kTerms, states_[a].item);
        set(terms[0], free->value, free->place, 0, k_);
        count = 1;
        free = free == states_[a].partial ? free + 1 : states_[a].partial;
      }
      held(terms[count], a, 0, w.first + j * axis.table_step);
      terms[count].shift = static_cast<std::uint64_t>(w.tap + j) * axis.tap_place;
      ++count;
    }
    return count;
  }

  // All outputs of axis a, one after another.
  void produce(int a, const char* src, Line dst) {
    if (a == n_ - 1) return line(src, dst, 0, last().out, last().extent());
    const Index item = states_[a].item;
    each_block(a, 0, axes_[a].out, src, [&](Index, Index n, const Term* terms, int count) {
      if (count) k_.merge_strided[clean_](dst, terms, count, n, axes_[a].stride, item);
      else k_.fill(dst, n * item);
      dst = advance(dst, n * item, k_);
    });
  }

  // ------------------------------------------------------------------ lines merged first

  // The pooled line of one window of lines; false if there is none in it.
  bool merge_rows(const Window& rows, const char* src, Line dst) {
    if (rows.count == 0) return false;
    const Axis& line = last();
    const Index length = line.in * inner_, front = line.before * inner_;
    k_.fill(merged_, front);
    k_.fill(advance(merged_, front + length, k_), padded_ * inner_ - front - length);
    for (Index at = 0; at < length; at += piece_)
      merge_pieces(rows, src, at, std::min(piece_, length - at), advance(merged_, front + at, k_));
    for (Index o = 0; o < line.out; o += columns_) {
      const Index n = std::min(columns_, line.out - o);
      const Line base = advance(merged_, (line.start(o) + line.before) * inner_, k_);
      if (line.regular()) merge_strip(base, advance(dst, o * inner_, k_), n, (n - 1) * line.stride + line.span(), 1);
      else fold_strip(advance(dst, o * inner_, k_), o, n);
    }
    if (tracks()) look_up(rows, src, dst);
    if (p_.signed_zeros_ && k_.acc_size == 4) settle_zeros<float>(rows, src, static_cast<float*>(dst.value));
    if (p_.signed_zeros_ && k_.acc_size == 8) settle_zeros<double>(rows, src, static_cast<double*>(dst.value));
    return true;
  }

  // Places are not carried along: winners are looked up afterwards. Sums of kRowsBlock lines each are added
  // in pairs, those of pairs in pairs: errors grow with the logarithm of the window's height.
  void merge_pieces(const Window& rows, const char* src, Index at, Index n, Line dst) {
    const Axis& axis = axes_[n_ - 2];
    const Index step = axis.regular() ? axis.dilation : axis.table_step;
    int top = 0;  // sums that wait for their like
    for (Index block = 0, row = 0; row < rows.count; ++block) {
      const Index end = std::min(rows.count, row + kRowsBlock);
      Line sum = sums_[top];
      bool empty = true;
      while (row < end) {
        Term terms[kTerms];
        int count = 0;
        if (!empty) set(terms[count++], sum.value, sum.place, 0, k_);
        for (int slot = 0; count < kTerms && row < end; ++count, ++slot, ++row)
          input_row(terms[count], src, rows.first + row * step, at, n, rows_[slot]);
        const Line to = empty ? sum : sums_.back();
        for (Index done = 0; done < n; done += chunk_) {
          const Index part = std::min(chunk_, n - done);
          Term piece[kTerms];
          for (int j = 0; j < count; ++j) set(piece[j], terms[j].value, terms[j].place, done, k_);
          // Long runs are asked for by the processor itself, and better.
          if (n <= part) ahead_.ask(count * part * static_cast<Index>(k_.in_size));
          k_.merge_values[p_.omits_](advance(to, done, k_), piece, count, part);
        }
        if (!empty) std::swap(sums_[top], sums_.back());
        sum = sums_[top];
        empty = false;
      }
      ++top;
      for (Index pairs = block; pairs & 1; pairs /= 2) pair(--top, n);
    }
    while (top > 1) pair(--top, n);
    copy(dst, sums_[0], n);
  }

  // sums_[top - 1] takes in sums_[top].
  void pair(int top, Index n) {
    Term terms[kTerms];
    set(terms[0], sums_[top - 1].value, sums_[top - 1].place, 0, k_);
    set(terms[1], sums_[top].value, sums_[top].place, 0, k_);
    k_.merge_values[p_.omits_](sums_.back(), terms, 2, n);
    std::swap(sums_[top - 1], sums_.back());
  }

  // Elements [at, at + n) of an input line, where they lie or loaded into `spare`.
  void input_row(Term& term, const char* src, Index row, Index at, Index n, Line spare) {
    src = advance(src, row * axes_[n_ - 2].in_stride, k_.in_size);
    if (p_.raw_lines_) {
      const char* run = advance(src, at, k_.in_size);
      ahead_.consumed(run + n * static_cast<Index>(k_.in_size));
      return set(term, run, nullptr, 0, k_);
    }
    load_elements(spare, src, at, n);
    set(term, spare.value, spare.place, 0, k_);
  }

  // Elements of a line, counted through its columns and channels.
  void load_elements(Line to, const char* src, Index at, Index n) {
    const Index stride = last().in == 1 ? inner_ : last().in_stride, step = p_.layout_.inner.stride[0];
    while (n > 0) {
      const Index column = at / inner_, channel = at % inner_;
      const bool whole = channel == 0 && n >= inner_;
      const Index columns = whole ? n / inner_ : 1, inner = whole ? inner_ : std::min(n, inner_ - channel);
      const Runs runs{columns, stride, inner, step};
      const char* from = advance(src, column * last().in_stride + channel * step, k_.in_size);
      k_.load(to.value, inner, from, runs);
      if (p_.admits_) admit(to, from, runs);
      to = advance(to, columns * inner, k_);
      at += columns * inner, n -= columns * inner;
    }
  }

  // An input line of a window once more, as accumulators.
  const void* line_again(const Window& rows, Index row, const char* src) {
    const Axis& axis = axes_[n_ - 2];
    const Index input = rows.first + row * (axis.regular() ? axis.dilation : axis.table_step);
    src = advance(src, input * axis.in_stride, k_.in_size);
    if (p_.raw_lines_) return src;
    load_elements(merged_, src, 0, last().in * inner_);
    return merged_.value;
  }

  // Zeros of either sign are equal, and the first of them in row order is the result.
  template <class A>
  void settle_zeros(const Window& rows, const char* src, A* value) {
    const Axis& line = last();
    const Index gap = line.irregular ? line.table_step : line.dilation;
    zeros_.clear();
    for (Index i = 0; i < line.out * inner_; ++i)
      if (value[i] == 0) zeros_.push_back(i);
    for (Index row = 0; row < rows.count && !zeros_.empty(); ++row) {
      const A* run = static_cast<const A*>(line_again(rows, row, src));
      std::erase_if(zeros_, [&](Index i) {
        const Window w = line.valid(i / inner_);
        for (Index tap = 0; tap < w.count; ++tap)
          if (const A x = run[(w.first + tap * gap) * inner_ + i % inner_]; x == 0) {
            value[i] = x;
            return true;
          }
        return false;
      });
    }
  }

  void look_up(const Window& rows, const char* src, Line dst) {
    const Axis &line = last(), &axis = axes_[n_ - 2];
    std::memset(dst.place, 0xff, static_cast<std::size_t>(line.out * inner_) * k_.place_size);
    for (Index row = 0; row < rows.count; ++row) {
      const void* run = line_again(rows, row, src);
      for (Index o = 0; o < line.out; ++o) {
        const Window w = line.valid(o);
        const Index gap = line.irregular ? line.table_step : line.dilation;
        const Index together = gap == 1 ? w.count : 1;
        for (Index tap = 0; tap < w.count; tap += together)
          k_.locate(advance(dst.place, o * inner_, k_.place_size), advance(dst.value, o * inner_, k_.acc_size),
                    advance(run, (w.first + tap * gap) * inner_, k_.acc_size), together, inner_,
                    static_cast<std::uint64_t>(rows.tap + row) * axis.tap_place +
                        static_cast<std::uint64_t>(w.tap + tap) * line.tap_place,
                    line.tap_place);
      }
    }
  }

  // ------------------------------------------------------------------ the last axis

  // Outputs [first, end) of a line of `extent` inputs.
  void line(const char* src, Line dst, Index first, Index end, Index extent) {
    if (!last().regular()) return listed_line(src, dst, first, end);
    for (Index o = first; o < end; o += columns_) {
      const Index n = std::min(columns_, end - o);
      strip(src, dst, o, n, extent);
      dst = advance(dst, n * inner_, k_);
    }
  }

  // Inputs first, first + step, ... of a line. Those that are admitted come without gaps: pitch is inner.
  void load(Line to, Index pitch, const char* src, Index first, Index columns, Index step = 1) {
    void* dst = to.value;
    if (columns <= 0) return;
    src = advance(src, first * last().in_stride, k_.in_size);
    const Runs runs{columns, last().in == 1 ? inner_ : step * last().in_stride, inner_, p_.layout_.inner.stride[0]};
    if (!p_.divides_on_load_) {
      k_.load(dst, pitch, src, runs);
      if (p_.admits_) admit(to, src, runs);
      return;
    }
    Divisor by = divisor(first);
    if (step == 1 || !by.column) return k_.load_divided(dst, pitch, src, runs, by);
    for (Index c = 0; c < columns; ++c, by.column += step)  // the columns' counts lie apart as well
      k_.load_divided(advance(dst, c * pitch, k_.acc_size), pitch, advance(src, c * runs.pitch, k_.in_size),
                      {1, runs.pitch, runs.inner, runs.inner_stride}, by);
  }

  void admit(Line to, const char* src, const Runs& runs) {
    const Index n = runs.columns * runs.inner;
    const std::uint8_t* mask = nullptr;
    if (p_.masked_) {
      mask = mask_ + (src - static_cast<const char*>(in_)) / static_cast<Index>(k_.in_size);
      if ((runs.inner > 1 && runs.inner_stride != 1) || (runs.columns > 1 && runs.pitch != runs.inner)) {
        std::uint8_t* dense = admitted_;
        for (Index c = 0; c < runs.columns; ++c)
          for (Index i = 0; i < runs.inner; ++i) *dense++ = mask[c * runs.pitch + i * runs.inner_stride];
        mask = admitted_;
      }
    }
    k_.admit(to, mask, p_.omits_, n, p_.parameters_);
  }

  // n outputs from `first` on, of `rows` lines at once that lie row_stride apart. Many lines at a time
  // keep the calls long, and let stores settle before they are read again.
  void strip(const char* src, Line dst, Index first, Index n, Index extent, Index rows = 1, Index row_stride = 0) {
    const Axis& axis = last();
    const Index low = axis.start(first);
    const Index length = (n - 1) * axis.stride + axis.span();
    const bool inside = low >= 0 && low + length <= extent;

    const void* base = raw_.value;
    if (inside && p_.raw_lines_ && rows == 1) {
      base = advance(src, low * axis.in_stride, k_.in_size);
      ahead_.consumed(advance(base, length * inner_, k_.in_size));
    } else {
      load_padded(src, low, length, extent, rows, row_stride);
      ahead_.consumed(advance(src, rows == 1 ? (low + length) * axis.in_stride : rows * row_stride, k_.in_size));
    }
    merge_strip({const_cast<void*>(base), raw_.place}, dst, n, length, rows);
  }

  // The same from loaded inputs.
  void merge_strip(Line base, Line dst, Index n, Index length, Index rows) {
    const Axis& axis = last();
    const Index line_bytes = n * axis.stride * inner_ * static_cast<Index>(k_.in_size);
    const bool clean = p_.omits_ || (p_.scans_ && !k_.any_nan(base.value, rows * length * inner_));
    dirty_lines_ += !clean;
    const std::size_t steps = axis.chain.size();
    for (std::size_t s = 0; s < steps; ++s) {
      const Step& step = axis.chain[s];
      Term terms[kTerms];
      for (int j = 0; j < step.count; ++j) {
        const auto [level, shift] = step.parts[j];
        set(terms[j], level ? levels_[level].value : base.value, level ? levels_[level].place : base.place,
            shift * axis.dilation * inner_, k_);
        terms[j].shift = static_cast<std::uint64_t>(shift) * axis.tap_place;
      }
      if (s + 1 < steps) {  // all rows as one run: what crosses a border is not read
        const Index run = rows * length - (step.width - 1) * axis.dilation;
        k_.merge[clean](levels_[s + 1], terms, step.count, run * inner_);
        continue;
      }
      for (Index row = 0; row < rows; ++row) {
        ahead_.ask(line_bytes / 2);
        k_.merge_strided[clean](dst, terms, step.count, n, axis.stride, inner_);
        dst = advance(dst, n * inner_, k_);
        for (int j = 0; j < step.count; ++j) {
          terms[j].value = advance(terms[j].value, length * inner_, k_.acc_size);
          if (terms[j].place) terms[j].place = advance(terms[j].place, length * inner_, k_.place_size);
        }
      }
    }
  }

  // Inputs [low, low + length) of `rows` lines, with identities for those outside the extent.
  void load_padded(const char* src, Index low, Index length, Index extent, Index rows, Index row_stride) {
    const Axis& axis = last();
    // The padding of the strip before is still there if this one lies the same way.
    if (padded_low_ != low || padded_length_ != length) {
      k_.fill(raw_, lines_ * length * inner_);
      padded_low_ = low, padded_length_ = length;
    }
    Index begin = std::max<Index>(low, 0), end = std::max(begin, std::min(low + length, extent));
    if (axis.spacing > 1 && begin < end) {
      begin = (begin + axis.spacing - 1) / axis.spacing;
      end = (end - 1) / axis.spacing + 1;
    }
    const Line to = advance(raw_, (begin * axis.spacing - low) * inner_, k_);
    if (p_.contiguous_lines_ && rows > 1 && !p_.admits_)  // each row is one run
      return k_.load(to.value, length * inner_, advance(src, begin * axis.in_stride, k_.in_size),
                     {rows, row_stride, (end - begin) * inner_, 1});
    const Index first_row = n_ > 1 ? coordinate_[n_ - 2] : 0;
    for (Index row = 0; row < rows; ++row) {
      if (n_ > 1) coordinate_[n_ - 2] = first_row + row;
      load(advance(to, row * length * inner_, k_), axis.spacing * inner_,
           advance(src, row * row_stride, k_.in_size), begin, end - begin);
    }
    if (n_ > 1) coordinate_[n_ - 2] = first_row;
  }

  // Listed windows from n outputs on, out of the merged lines.
  void fold_strip(Line dst, Index first, Index n) {
    const Axis& axis = last();
    for (Index o = first; o < first + n; ++o, dst = advance(dst, inner_, k_)) {
      const Window& w = axis.table[o];
      Term taps;
      const Line at = advance(merged_, (axis.before + w.first) * inner_, k_);
      set(taps, at.value, at.place, 0, k_);
      if (w.count) k_.fold(dst, taps, w.count, axis.table_step * inner_, inner_, 0);
      else k_.fill(dst, inner_);
    }
    ++dirty_lines_;  // nobody looked for NaNs
  }

  void listed_line(const char* src, Line dst, Index first, Index end) {
    const Axis& axis = last();
    if (whole_line_) {
      Line all = raw_;
      if (p_.raw_lines_) all.value = const_cast<char*>(src);
      else load(raw_, inner_, src, 0, axis.in);
      ahead_.consumed(advance(src, axis.in * inner_, k_.in_size));
      ahead_.ask(axis.in * inner_ * static_cast<Index>(k_.in_size));
      Term term;
      set(term, all.value, all.place, 0, k_);
      for (Index o = first; o < end; ++o)
        if (axis.table[o].count == 0) k_.fill(advance(dst, (o - first) * inner_, k_), inner_);
      k_.fold_each(dst, term, &axis.table[first], end - first, axis.table_step, inner_, axis.tap_place);
      ++dirty_lines_;
      return;
    }
    Index alike = 1;
    for (Index o = first; o < end; o += alike, dst = advance(dst, alike * inner_, k_)) {
      const Window& w = axis.table[o];
      for (alike = 1; o + alike < end && axis.table[o + alike] == w;) ++alike;
      if (w.count == 0) k_.fill(dst, inner_);
      for (Index done = 0; done < w.count; done += columns_) {
        const Index n = std::min(columns_, w.count - done);
        const Index input = w.first + done * axis.table_step;
        Line taps = raw_;
        if (raw_window()) {
          taps.value = const_cast<char*>(advance(src, input * axis.in_stride, k_.in_size));
          ahead_.consumed(advance(taps.value, n * inner_, k_.in_size));
          ahead_.ask(n * inner_ * static_cast<Index>(k_.in_size));
        } else {
          load(raw_, inner_, src, input, n, axis.table_step);
        }
        Term terms[2];
        set(terms[1], taps.value, taps.place, 0, k_);
        terms[1].shift = static_cast<std::uint64_t>(w.tap + done) * axis.tap_place;
        const Line piece = done ? levels_[0] : dst;
        k_.fold(piece, terms[1], n, inner_, inner_, axis.tap_place);
        if (done) {  // after what there is
          set(terms[0], dst.value, dst.place, 0, k_);
          set(terms[1], piece.value, piece.place, 0, k_);
          k_.merge[0](result_, terms, 2, inner_);
          copy(dst, result_, inner_);
        }
      }
      if (alike > 1) repeat(dst, inner_, alike);  // the transpose of a large window
    }
    ++dirty_lines_;
  }

  // A listed window may be read where it lies.
  bool raw_window() const { return p_.raw_lines_ && last().table_step == 1; }

  // `count` items in all, where the first stands.
  void repeat(Line run, Index item, Index count) const {
    repeat(run.value, k_.acc_size, item, count);
    if (run.place) repeat(run.place, k_.place_size, item, count);
  }

  static void repeat(void* run, std::size_t size, Index item, Index count) {
    if (item == 1 && size == 4) return fill_like(static_cast<std::uint32_t*>(run), count);
    if (item == 1 && size == 8) return fill_like(static_cast<std::uint64_t*>(run), count);
    for (Index i = 1; i < count; ++i) std::memcpy(advance(run, i * item, size), run, static_cast<std::size_t>(item) * size);
  }

  template <class T>
  static void fill_like(T* run, Index count) {
    for (Index i = 1; i < count; ++i) run[i] = run[0];
  }

  void copy(Line to, Line from, Index n) const {
    std::memcpy(to.value, from.value, static_cast<std::size_t>(n) * k_.acc_size);
    if (to.place) std::memcpy(to.place, from.place, static_cast<std::size_t>(n) * k_.place_size);
  }

  // ------------------------------------------------------------------ results

  // What the line at coordinate_ is divided by, from column coordinate on.
  Divisor divisor(Index column) const {
    if (p_.divisor_ != 0) return {nullptr, p_.divisor_, false, p_.truncate_};
    Divisor by{nullptr, 1.0, p_.few_, p_.truncate_};
    for (int a = 0; a < n_ - 1; ++a) by.scale *= axes_[a].count[coordinate_[a]];
    if (p_.column_divisor_) by.column = last().count.data() + column;
    else by.scale *= last().count[0];
    return by;
  }

  void run_line(const char* src, Index first, Index end) {
    const Index step = std::max<Index>(1, chunk_ / inner_);
    for (Index o = first; o < end; o += step) {
      const Index n = std::min(step, end - o);
      coordinate_[0] = o;
      emit(n, false, [&](Line to) { line(src, to, o, o + n, last().extent()); });
    }
  }

  // n outputs of the first axis.
  void emit_block(Index o, Index n, const Term* terms, int count) {
    const Axis& axis = axes_[0];
    const Index item = states_[0].item;
    const auto merge = [&](Line to, Index at, Index items, Index length) {
      Term piece[kTerms];
      for (int j = 0; j < count; ++j) {
        set(piece[j], terms[j].value, terms[j].place, at, k_);
        piece[j].shift = terms[j].shift;
      }
      if (count) k_.merge_strided[clean_](to, piece, count, items, axis.stride, length);
      else k_.fill(to, items * length);
    };
    std::fill(coordinate_.begin(), coordinate_.end(), 0);
    coordinate_[0] = o;
    // In pieces that stay in the first cache: of lines, or of the whole run where results lie together.
    const bool run = p_.flat_out_ && (axis.stride == 1 || n == 1);
    const Index columns = (run ? n * item : p_.flat_out_ ? item : last().out * inner_) / inner_;
    const Index step = std::max<Index>(1, chunk_ / inner_);
    const Index rows = run ? 1 : n, together = p_.flat_out_ && !run ? std::max<Index>(1, step / columns) : 1;
    for (Index row = 0; row < rows; row += together)
      for (Index done = 0; done < (run ? n * item : item); done += columns * inner_)
        for (Index c = 0; c < columns; c += step) {
          const Index width = std::min(step, columns - c), items = std::min(together, rows - row);
          Index left = done / inner_ + c;
          for (int a = n_ - 1; a > 0; --a) {
            coordinate_[a] = left % axes_[a].out;
            left /= axes_[a].out;
          }
          coordinate_[0] = o + row + left;
          emit(items * width, p_.flat_out_, [&](Line to) {
            merge(to, row * axis.stride * item + done + c * inner_, items, width * inner_);
          });
        }
  }

  // Merges, finishes and stores `columns` columns from coordinate_ on; `flat`: they may run over
  // several lines.
  template <class Merge>
  void emit(Index columns, bool flat, Merge merge) {
    Index where = out_base_;
    for (int a = 0; a < n_; ++a) where += coordinate_[a] * axes_[a].out_stride;
    const Index runs = flat ? 1 : columns, run = flat ? columns * inner_ : inner_;
    const bool divide = p_.divides_ && !p_.divides_on_load_, lowers = k_.lower && !p_.divides_on_load_;
    const bool finishes = divide || lowers || p_.counted_ || !k_.direct_finish;
    void* direct = !out_.streams && out_.contiguous(runs, run) ? out_.at(where) : nullptr;

    const bool in_place = direct && k_.direct_finish && (!finishes || (lowers && !p_.counted_));
    const Line to{in_place ? direct : result_.value, result_.place};
    ahead_.ask(columns * inner_ * static_cast<Index>(k_.in_size) * axes_[0].stride / 2);
    merge(to);
    const void* values = to.value;
    void* finished = direct ? direct : finished_;
    if (p_.counted_) {
      k_.finish_counted(finished, to, columns * inner_, p_.truncate_, p_.parameters_);
      values = finished;
    } else if (finishes) {
      Divisor by;
      if (divide) by = divisor(coordinate_[n_ - 1]);
      const Divisor* divides = divide ? &by : nullptr;
      if (lowers) {
        k_.lower(to.value, columns, inner_, divides, p_.parameters_);
        divides = nullptr;
      }
      if (divides || !k_.direct_finish) {
        k_.finish(finished, values, columns, inner_, divides);
        values = finished;
      }
    }
    out_.store(where, values, runs, run);

    if (tracks()) {
      // Places count from where a window starts; positions from where the plane does.
      for (Index c = 0; c < columns;) {
        const Index left = last().irregular ? 1 : last().out - coordinate_[n_ - 1];
        const Index n = std::min(columns - c, left);
        k_.store_places(advance(narrowed_, c * inner_, p_.place_out_size_), p_.place_out_size_,
                        advance(to.place, c * inner_, k_.place_size), n, inner_, start_place(),
                        last().stride * last().input_place);
        if (clips_ || p_.admits_)
          repair(advance(to.value, c * inner_, k_.acc_size), advance(narrowed_, c * inner_, p_.place_out_size_), n);
        c += n;
        coordinate_[n_ - 1] += n;
        for (int a = n_ - 1; a > 0 && coordinate_[a] == axes_[a].out; --a) coordinate_[a] = 0, ++coordinate_[a - 1];
      }
      places_.store(where, narrowed_, runs, run);
    }
  }

  // The position of the first element, maybe in the padding, of the window at coordinate_.
  Index start_place() const {
    Index place = 0;
    for (int a = 0; a < n_; ++a) place += axes_[a].start(coordinate_[a]) * axes_[a].input_place;
    return place;
  }

  // Padding, and what takes no part, equal the least element. Where a window gives just that, every
  // element of it is least, and the first one that takes part is the winner; without one there is none.
  void repair(const void* values, void* stored, Index columns) {
    const Index n = columns * inner_, first = coordinate_[n_ - 1];
    for (Index i = k_.find_identity(values, 0, n); i < n; i = k_.find_identity(values, i + 1, n)) {
      const Index column = first + i / inner_;
      const auto output = [&](int a) { return a == n_ - 1 ? column : coordinate_[a]; };
      bool inside = !p_.admits_;
      for (int a = 0; a < n_; ++a) {
        const Axis& axis = axes_[a];
        inside = inside && axis.start(output(a)) >= 0 && axis.start(output(a)) + axis.span() <= axis.in;
      }
      if (!inside) put(stored, i, first_part(output, i % inner_));
    }
  }

  // The place of the first element of a window that takes part; 0 as an offset, -1 in the plane if none.
  template <class Output>
  Index first_part(Output output, Index channel) {
    const bool offset = p_.places_ == Places::offset;
    std::vector<Index> tap(n_, 0);
    for (int a = 0; a >= 0;) {
      Index place = 0, at = in_base_ + channel * p_.layout_.inner.stride[0];
      bool exists = true;
      for (int b = 0; b < n_; ++b) {
        const Axis& axis = axes_[b];
        const Window w = axis.valid(output(b));
        exists = exists && w.count > 0;
        const Index input = w.first + tap[b] * axis.dilation;
        at += input * axis.in_stride;
        place += offset ? (w.tap + tap[b]) * static_cast<Index>(axis.tap_place) : input * axis.input_place;
      }
      if (!exists) break;
      if (takes_part(at)) return place;
      for (a = n_ - 1; a >= 0 && ++tap[a] == axes_[a].valid(output(a)).count; --a) tap[a] = 0;
    }
    return offset ? 0 : -1;
  }

  bool takes_part(Index at) const {
    if (p_.masked_ && !mask_[at]) return false;
    if (!p_.omits_ || !k_.any_nan) return true;
    double value = 0;  // room for any accumulator
    k_.load(&value, 1, advance(in_, at, k_.in_size), {1, 1, 1, 1});
    return !k_.any_nan(&value, 1);
  }

  void put(void* stored, Index i, Index place) const {
    void* at = advance(stored, i, p_.place_out_size_);
    if (p_.place_out_size_ == 1) *static_cast<std::uint8_t*>(at) = static_cast<std::uint8_t>(place);
    else if (p_.place_out_size_ == 2) *static_cast<std::uint16_t*>(at) = static_cast<std::uint16_t>(place);
    else if (p_.place_out_size_ == 4) *static_cast<std::uint32_t*>(at) = static_cast<std::uint32_t>(place);
    else *static_cast<Index*>(at) = place;
  }

  const Pool& p_;
  std::vector<Axis> own_axes_;  // where every plane has windows of its own
  const std::vector<Axis>& axes_;
  const Kernels& k_;
  const int n_;
  const void* in_;
  const std::uint8_t* mask_;
  const Index* starts_;
  const Target out_, places_;
  Index lines_ = 1;  // at a time
  Index inner_, columns_ = 1, chunk_ = 1, in_base_ = 0, out_base_ = 0;
  bool clips_ = false;
  bool whole_line_ = false;  // listed windows of the last axis are short, and its lines not long
  bool clean_ = false;     // the block being visited holds no NaN
  Index dirty_lines_ = 0;  // lines met so far that may
  std::vector<State> states_;
  std::vector<Line> levels_;
  std::vector<Index> coordinate_;
  Line result_;
  ReadAhead ahead_;
  Line raw_ = {};
  std::vector<Line> sums_;  // of lines, the last one spare
  Line rows_[kTerms] = {};  // loaded lines
  Line merged_ = {};        // a window of lines, with its padding
  std::vector<Index> zeros_;  // results whose sign is not settled
  Index piece_ = 0, padded_ = 0;
  std::uint8_t* admitted_ = nullptr;
  void *finished_ = nullptr, *narrowed_ = nullptr;
  Index padded_low_ = kNowhere, padded_length_ = 0;
  Scratch scratch_;
};

}  // namespace infinitypool
