#include "unpool.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "../memory/recycler.hpp"
#include "parallel.hpp"

namespace infinitypool {
namespace {

constexpr Index kPiece = 512;       // values that share one range of indices
constexpr Index kLanes = 4;         // ranges that grow side by side: a single one waits for its last comparison
constexpr Index kAhead = 1 << 14;   // positions asked for at once
constexpr Index kLeastBlock = 64;   // of a long inner run; more, up to this table of winners in the second cache
constexpr Index kTableBytes = Index(512) << 10;
enum Tensor { kValues, kIndices, kOut };

void require(bool holds, const char* rule) {
  if (!holds) throw std::invalid_argument(rule);
}

// Elements of a tensor; every offset into it, in bytes, has to fit an Index.
Index count(const Shape& shape, const Shape& strides, Index size) {
  Index n = 1, reach = 1;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    Index span;
    require(shape[d] >= 0, "sizes must not be negative");
    require(strides[d] != std::numeric_limits<Index>::min() && !__builtin_mul_overflow(n, shape[d], &n) &&
                !__builtin_mul_overflow(std::max<Index>(shape[d], 1) - 1, std::abs(strides[d]), &span) &&
                !__builtin_add_overflow(reach, span, &reach),
            "the tensor is too large");
  }
  require(n <= std::numeric_limits<Index>::max() / 64 && reach <= std::numeric_limits<Index>::max() / size,
          "the tensor is too large");
  return n;
}

// Dims, outermost first; those that lie behind one another in all of the tensors become one.
void append(std::vector<Dim>& dims, const Dim& d, std::initializer_list<Tensor> tensors) {
  const auto behind = [&](Tensor t) { return dims.back().stride[t] == d.stride[t] * d.size; };
  if (!dims.empty() && std::all_of(tensors.begin(), tensors.end(), behind))
    dims.back() = {dims.back().size * d.size, d.stride};
  else
    dims.push_back(d);
}

}  // namespace

Unpool::Unpool(const UnpoolArguments& a) : shape_(a.shape), index_strides_(a.index_strides), item_size_(a.item_size) {
  const std::size_t rank = a.shape.size();
  require(item_size_ == 1 || item_size_ == 2 || item_size_ == 4 || item_size_ == 8, "item_size must be 1, 2, 4 or 8");
  for (const Shape* s : {&a.in_strides, &a.index_strides, &a.out_shape, &a.out_strides})
    require(s->size() == rank, "one size and one stride per axis are needed");
  require(!a.axes.empty(), "one axis at least is needed");
  for (std::size_t i = 0; i < a.axes.size(); ++i)
    require(a.axes[i] >= (i ? a.axes[i - 1] + 1 : 0) && a.axes[i] < static_cast<int>(rank),
            "axes must ascend within the shape");
  inputs_ = count(a.shape, a.in_strides, item_size_);
  count(a.shape, a.index_strides, sizeof(Index));
  elements_ = inputs_ + count(a.out_shape, a.out_strides, item_size_);

  layout_ = layout_of(a.shape, {a.in_strides, a.index_strides, a.out_strides}, a.axes, kOut);
  std::size_t pooled = 0;
  for (std::size_t d = 0; d < rank; ++d) {
    if (pooled == a.axes.size() || a.axes[pooled] != static_cast<int>(d)) {
      require(a.shape[d] == a.out_shape[d], "sizes may differ on the axes alone");
      continue;
    }
    const Strides& stride = layout_.axes[pooled++];
    append(lines_, {a.shape[d], stride}, {kValues, kIndices});
    append(spots_, {a.out_shape[d], stride}, {kOut});
    plane_ *= a.out_shape[d];
  }

  inner_block_ = std::min(layout_.inner.size, std::max(kLeastBlock, kTableBytes / std::max<Index>(plane_, 1)));
  const Index columns = lines_.back().size;
  piece_columns_ = std::max<Index>(1, kPiece / std::max<Index>(layout_.inner.size, 1));
  line_pieces_ = (columns + piece_columns_ - 1) / piece_columns_;
  for (const Dim& d : lines_) pieces_ *= &d == &lines_.back() ? line_pieces_ : d.size;
}

Unpool::Piece Unpool::piece(Index number) const {
  const Index first = number % line_pieces_ * piece_columns_;
  Piece p{{}, std::min(piece_columns_, lines_.back().size - first)};
  number /= line_pieces_;
  for (std::size_t i = lines_.size(); i-- > 0;) {
    const Index at = i + 1 == lines_.size() ? first : number % lines_[i].size;
    if (i + 1 < lines_.size()) number /= lines_[i].size;
    for (int t = 0; t < kOut; ++t) p.at[t] += at * lines_[i].stride[t];
  }
  return p;
}

// From a position in the plane of results to its offset.
inline Index Unpool::place(Index position) const {
  Index offset = 0;
  for (std::size_t i = spots_.size() - 1; i > 0; --i) {
    offset += position % spots_[i].size * spots_[i].stride[kOut];
    position /= spots_[i].size;
  }
  return offset + position * spots_.front().stride[kOut];
}

Unpool::Range Unpool::range(const Index* indices, Index columns) const {
  Index step = lines_.back().stride[kIndices], inner = layout_.inner.size, inner_step = layout_.inner.stride[kIndices];
  if (inner == 1 || (inner_step == 1 && step == inner)) {  // one run
    inner_step = inner == 1 ? step : 1;
    inner *= columns;
    columns = 1;
  }
  Index low[kLanes], high[kLanes];
  std::fill_n(low, kLanes, std::numeric_limits<Index>::max());
  std::fill_n(high, kLanes, std::numeric_limits<Index>::min());
  for (Index c = 0; c < columns; ++c) {
    const Index* run = indices + c * step;
    Index i = 0;
    for (; i + kLanes <= inner; i += kLanes)
      for (Index k = 0; k < kLanes; ++k) {
        const Index index = run[(i + k) * inner_step];
        low[k] = std::min(low[k], index);
        high[k] = std::max(high[k], index);
      }
    for (; i < inner; ++i) {
      low[0] = std::min(low[0], run[i * inner_step]);
      high[0] = std::max(high[0], run[i * inner_step]);
    }
  }
  return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

Index Unpool::first_bad(const Index* indices) const {
  Shape at(shape_.size(), 0);
  for (Index flat = 0; flat < inputs_; ++flat) {
    if (*indices < 0 || *indices >= plane_) return flat;
    for (std::size_t d = shape_.size(); d-- > 0; at[d] = 0) {
      indices += index_strides_[d];
      if (++at[d] < shape_[d]) break;
      indices -= index_strides_[d] * shape_[d];
    }
  }
  return -1;
}

// A task is a unit × a band of its plane of results × a block of the inner run. It moves every value
// whose index points into its band, so that equal indices meet in one thread, in row order. A piece with
// no index in the band is skipped: a large plane is shared by the threads wherever indices are local.
template <class T, bool kGradient>
class UnpoolWorker {
 public:
  UnpoolWorker(const Unpool& u, const void* values, const Index* indices, const void* out, const Unpool::Range* ranges,
               Index table)
      : u_(u), inner_(u.layout_.inner), values_(static_cast<T*>(const_cast<void*>(values))), indices_(indices),
        out_(static_cast<T*>(const_cast<void*>(out))), ranges_(ranges), table_(static_cast<std::size_t>(table)) {}

  void run(const Task& t) {
    at_ = u_.layout_.outer_offset(t.unit);
    for (int i = 0; i < kTensors; ++i) at_[i] += t.inner_first * inner_.stride[i];
    inner_.size = t.inner_last - t.inner_first;
    first_ = t.first;
    size_ = t.last - t.first;
    // Results, or the table of winners, are cleared just before the first index points at them, to be
    // in the cache then. The gradient goes from the last value to the first: who gets to a place
    // first has won it.
    Index cleared = kGradient ? size_ : 0;
    for (Index k = 0; k < u_.pieces_; ++k) {
      const Index number = kGradient ? u_.pieces_ - 1 - k : k;
      const Unpool::Range& range = ranges_[t.unit * u_.pieces_ + number];
      if (range.high < t.first || range.low >= t.last) continue;
      const Index low = std::max<Index>(0, range.low - first_), end = std::min(size_, range.high - first_ + 1);
      if (kGradient && low < cleared) {
        std::memset(table_.data() + low * inner_.size, 0, static_cast<std::size_t>((cleared - low) * inner_.size));
#if defined(__GNUC__)
        // Gradients are read here and there on a few lines at once, backwards: more than hardware guesses.
        // (A function that only prefetches would be dropped as one without effect.)
        if (inner_.size == 1 && u_.dense() && cleared - low <= kAhead)
          for (Index p = cleared - 1; p >= low; p -= 64 / static_cast<Index>(sizeof(T)))
            __builtin_prefetch(out_ + at_[kOut] + u_.place(first_ + p), 0, 2);
#endif
        cleared = low;
      } else if (!kGradient && end > cleared) {
        zero(cleared, end);
        cleared = end;
      }
      if (u_.dense())
        move(u_.piece(number), [pitch = u_.spots_[0].stride[kOut]](Index position) { return position * pitch; });
      else
        move(u_.piece(number), [&u = u_](Index position) { return u.place(position); });
    }
    if (!kGradient) zero(cleared, size_);
  }

 private:
  void zero(Index from, Index to) {
    const Dim& line = u_.spots_.back();
    const Index step = line.stride[kOut], inner_step = inner_.stride[kOut];
    for (Index n; from < to; from += n) {
      n = std::min(to - from, line.size - (first_ + from) % line.size);
      T* run = out_ + at_[kOut] + u_.place(first_ + from);
      if (inner_step == 1 && step == inner_.size) {
        std::memset(run, 0, static_cast<std::size_t>(n * inner_.size) * sizeof(T));
      } else {
        for (Index c = 0; c < n; ++c)
          for (Index i = 0; i < inner_.size; ++i) run[c * step + i * inner_step] = 0;
      }
    }
  }

  template <class Place>
  void move(const Unpool::Piece& piece, Place place) {
    Dim outer{piece.columns, u_.lines_.back().stride}, inner = inner_;
    outer.stride[kOut] = 0;  // a column's place is in its index
    const Index block = inner_.size;
    Index table_step = 1, table_at = 0;
    Strides at;
    for (int t = 0; t < kTensors; ++t) at[t] = at_[t] + piece.at[t];
    if (kGradient) {  // backwards
      for (Dim* d : {&outer, &inner})
        for (int t = 0; t < kTensors; ++t) {
          at[t] += (d->size - 1) * d->stride[t];
          d->stride[t] = -d->stride[t];
        }
      table_at = block - 1;
      table_step = -1;
    }
    if (block == 1) {  // one run of columns
      std::swap(outer, inner);
      table_step = 0;
    }
    const auto first = static_cast<std::uint64_t>(first_), size = static_cast<std::uint64_t>(size_);
    const Index n = inner.size, value_step = inner.stride[kValues], index_step = inner.stride[kIndices],
                out_step = inner.stride[kOut];
    char* table = table_.data() + table_at;
    for (Index c = 0; c < outer.size; ++c) {
      T* values = values_ + at[kValues] + c * outer.stride[kValues];
      const Index* indices = indices_ + at[kIndices] + c * outer.stride[kIndices];
      T* out = out_ + at[kOut];
      for (Index i = 0; i < n; ++i) {
        const Index position = indices[i * index_step];
        const std::uint64_t from_first = static_cast<std::uint64_t>(position) - first;
        if (from_first >= size) continue;  // another band's
        T& there = out[place(position) + i * out_step];
        T& value = values[i * value_step];
        if (kGradient) {
          char& taken = table[static_cast<Index>(from_first) * block + i * table_step];
          value = static_cast<T>(there & static_cast<T>(taken - 1));
          taken = 1;
        } else {
          there = value;
        }
      }
    }
  }

  const Unpool& u_;
  Dim inner_;  // this task's block of it
  T* const values_;
  const Index* const indices_;
  T* const out_;
  const Unpool::Range* const ranges_;
  const memory::Buffer table_;  // of the gradient: which places of the band have been won
  Strides at_{};
  Index first_ = 0, size_ = 0;  // the band
};

template <class T, bool kGradient>
void Unpool::move(const void* values, const Index* indices, const void* out, const Range* ranges, int threads) const {
  auto tasks = split(layout_, plane_, 0, inner_block_, threads);
  if (kGradient) std::reverse(tasks.begin(), tasks.end());  // one direction throughout, easy to guess
  Index band = 0;
  for (const Task& t : tasks) band = std::max(band, t.last - t.first);
  const Index table = kGradient ? band * inner_block_ : 0;
  parallel(tasks, threads,
           [&] { return UnpoolWorker<T, kGradient>(*this, values, indices, out, ranges, table); });
}

template <bool kGradient>
Index Unpool::walk(const void* values, const Index* indices, const void* out) const {
  const int threads = elements_ < kParallelElements ? 1 : thread_count();
  // First the range of each piece's indices: nothing may be written before all are known to be good.
  const Index count = inputs_ ? layout_.outer_count() * pieces_ : 0;
  const memory::Buffer buffer(static_cast<std::size_t>(count) * sizeof(Range));
  auto* ranges = reinterpret_cast<Range*>(buffer.data());
  std::atomic<bool> bad{false};
  struct Checker {
    const Unpool& u;
    const Index* indices;
    Range* ranges;
    std::atomic<bool>& bad;
    void run(const Task& t) {
      const Index* unit = indices + u.layout_.outer_offset(t.unit)[kIndices];
      for (Index k = t.first; k < t.last; ++k) {
        const Piece p = u.piece(k);
        const Range r = ranges[t.unit * u.pieces_ + k] = u.range(unit + p.at[kIndices], p.columns);
        if (r.low < 0 || r.high >= u.plane_) bad.store(true, std::memory_order_relaxed);
      }
    }
  };
  if (count)
    parallel(split(layout_, pieces_, 0, layout_.inner.size, threads), threads,
             [&] { return Checker{*this, indices, ranges, bad}; });
  if (bad) return first_bad(indices);

  switch (item_size_) {
    case 1: move<std::uint8_t, kGradient>(values, indices, out, ranges, threads); break;
    case 2: move<std::uint16_t, kGradient>(values, indices, out, ranges, threads); break;
    case 4: move<std::uint32_t, kGradient>(values, indices, out, ranges, threads); break;
    default: move<std::uint64_t, kGradient>(values, indices, out, ranges, threads);
  }
  return -1;
}

Index Unpool::run(const void* x, const Index* indices, void* out) const { return walk<false>(x, indices, out); }

Index Unpool::gather(const void* grad, const Index* indices, void* grad_in) const {
  return walk<true>(grad_in, indices, grad);
}

}  // namespace infinitypool
