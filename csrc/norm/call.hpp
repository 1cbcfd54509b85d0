// What the passes of a norm share: how a group is cut into pieces, how elements come and go, and in which order
// threads take the pieces.
#pragma once

#include <algorithm>
#include <functional>

#include "../memory/recycler.hpp"
#include "../walkers/parallel.hpp"
#include "../walkers/scratch.hpp"
#include "../walkers/target.hpp"
#include "norm.hpp"

namespace infinitypool {

// Rows of a group, or a part of one. The cut depends on the shape alone, and with it every sum.
struct NormPiece {
  Index first_row, last_row, first, last;
};

struct NormPieces {
  static constexpr Index kElements = Index(1) << 16;
  static constexpr Index kAlong = Index(1) << 14;  // where parameters come along: they are read as well

  explicit NormPieces(const NormGeometry& g)
      : geometry(g), part(g.columns ? g.run : std::min(g.run, g.along ? kAlong : kElements)) {
    parts = (g.run + part - 1) / part;
    rows = parts > 1 ? 1 : std::max<Index>(g.columns ? 32 : 1, kElements / g.run);  // columns have sums of their own
    rows = std::min(rows, g.row_count);
    count = parts * ((g.row_count + rows - 1) / rows);
  }
  NormPiece operator[](Index i) const {
    const Index row = i / parts * rows, at = i % parts * part;
    return {row, std::min(row + rows, geometry.row_count), at, std::min(at + part, geometry.run)};
  }

  const NormGeometry& geometry;
  Index part, parts, rows, count;
};

// A row of a group whose place is `base`.
inline NormPlace row_of(const NormGeometry& g, const NormPlace& base, Index row) {
  NormPlace at = place_of(g.rows, row);
  at.x += base.x, at.out += base.out, at.other += base.other, at.parameter += base.parameter;
  at.region = base.region;
  return at;
}

// what(place of the first row, their axis, tile, first column, rows before) for tiles of rows that lie evenly apart.
template <class What>
void each_tile(const NormGeometry& g, const NormPlace& base, const NormPiece& p, Index elements, Index most_columns,
               What what) {
  const NormDim last = g.rows.empty() ? NormDim{} : g.rows.back();
  for (Index first = 0; first < g.run; first += most_columns) {
    const Index columns = std::min(most_columns, g.run - first), most = elements / columns;
    for (Index row = p.first_row, rows; row < p.last_row; row += rows) {
      rows = std::min({most, last.size - row % last.size, p.last_row - row});
      what(row_of(g, base, row), last, Tile{rows, columns}, first, row - p.first_row);
    }
  }
}

// Weight and bias as accumulators, in the order of x; null where there are none.
class NormParameters {
 public:
  NormParameters(const Norm& norm, const void* weight, const void* bias);
  const void* weight;
  const void* bias;

 private:
  memory::Buffer room_;
};

// The parameters of a span: one for all of its columns, or one after another.
template <class What>
void each_parameter(const NormSpan& s, What what) {
  if (!s.parameter_step) return what(s.first, s.count, s.parameter);
  for (Index i = 0; i < s.count; ++i) what(s.first + i, 1, s.parameter + i);
}

// Mean and variance, and what they come to for one region.
struct NormRegion {
  double mean = 0, rstd = 1;
  double center = 0, low = 0;  // the mean as an accumulator, and what that leaves over

  NormRegion() = default;
  NormRegion(double mean, double var, double eps, bool single)
      : mean(mean), rstd(1 / __builtin_sqrt(var + eps)), center(single ? double(float(mean)) : mean),
        low(mean - center) {
    if (!(low - low == 0)) low = 0;  // infinite or NaN: center says it all
  }
};

inline double read_float(DType dtype, const void* from, Index at) {
  switch (dtype) {
    case DType::float64: return static_cast<const double*>(from)[at];
    case DType::float32: return static_cast<const float*>(from)[at];
    default: break;
  }
  double value;
  norm_isa().twice.load[int(dtype)](&value, advance(from, at, 2), 1, 1);
  return value;
}
inline void write_float(DType dtype, void* to, Index at, double value) {
  norm_isa().twice.store[int(dtype)](advance(to, at, size_of(dtype)), &value, 1);
}

// Elements of one thread: as accumulators, wherever they lie.
class NormPort {
 public:
  static constexpr Index kRoom = 8192;  // elements of a tile at most
  NormPort(const NormKernels& k, DType dtype, bool direct)
      : k_(k), dtype_(dtype), size_(size_of(dtype)), direct_(direct) {}

  // n elements from `at` on; in `room` where they have to be converted.
  const void* read(const void* base, Index at, Index n, Index step, void* room) const {
    const void* from = advance(base, at, size_);
    if (direct_ && step == 1) return from;
    k_.load[int(dtype_)](room, from, n, step);
    return room;
  }
  // Rows of n elements, `pitch` apart there and in the result.
  const void* read(const void* base, Index at, Index* pitch, Tile tile, Index step, void* room) const {
    if (direct_ && step == 1) return advance(base, at, size_);
    for (Index r = 0; r < tile.rows; ++r)
      k_.load[int(dtype_)](advance(room, r * tile.columns, k_.size), advance(base, at + r * *pitch, size_),
                           tile.columns, step);
    *pitch = tile.columns;
    return room;
  }

 private:
  const NormKernels& k_;
  DType dtype_;
  std::size_t size_;
  bool direct_;
};

// Results of one thread.
class NormTarget {
 public:
  NormTarget(const NormKernels& k, DType dtype, bool direct, void* base, Index step, Index elements)
      : k_(k), dtype_(dtype), direct_(direct) {
    to_.base = base, to_.size = size_of(dtype), to_.isa = &isa();
    to_.column = to_.inner = step;
    to_.streams = step == 1 && std::size_t(elements) * to_.size >= kStreamBytes;
  }
  void take_room(Scratch& s) { room_ = direct_ ? nullptr : s.take(NormPort::kRoom, to_.size); }
  bool streams() const { return to_.streams; }
  void share_room(const NormTarget& other) { room_ = other.room_; }

  // Where accumulators for `at` may be made: in place where they are results, at *pitch.
  void* room(Index at, void* other, Index* pitch, Index columns) const {
    if (direct_ && to_.inner == 1 && !to_.streams) return to_.at(at);
    *pitch = columns;
    return other;
  }
  // What was made there; `pitch` is that of results.
  void put(Index at, const void* from, Tile tile, Index pitch) {
    if (from == to_.at(at)) return;
    if (!direct_) {
      k_.store[int(dtype_)](room_, from, tile.rows * tile.columns);
      from = room_;
    }
    if (tile.rows == 1 || pitch == tile.columns) {
      tile.columns *= tile.rows;
      tile.rows = 1;
    }
    for (Index r = 0; r < tile.rows; ++r)
      to_.store(at + r * pitch, advance(from, r * tile.columns, to_.size), to_.inner == 1 ? 1 : tile.columns,
                to_.inner == 1 ? tile.columns : 1);
  }

 private:
  const NormKernels& k_;
  DType dtype_;
  bool direct_;
  Target to_;
  void* room_ = nullptr;
};

// How threads take the work. A Call measures pieces, finishes groups and writes pieces; what a group's
// statistics come to is kept in a state of call.state_bytes() bytes. A Worker is told where a chunk of groups, or a
// piece of all groups, begins and ends: what it sums over groups is the same on any number of threads.
//
// - by groups: a thread does one whole group after another, so that the second pass finds it in the cache
// - by pieces: threads share a few large groups
// - across: a piece of all groups after another, so that long parameters are read once
enum class NormOrder { groups, pieces, across };
inline constexpr Index kGroupBytes = Index(4) << 20;   // a core's share of the caches
inline constexpr Index kCacheBytes = Index(16) << 20;  // all cores'
inline constexpr Index kOut = 2048;                    // results of a thread at a time

template <class Call>
void drive(const Call& call, const NormGeometry& g, Index pieces, NormOrder order, Index chunk, Index batch,
           int threads) {
  using Worker = typename Call::Worker;
  const auto state_bytes = Index((call.state_bytes() + 63) / 64 * 64);
  struct Run {
    Worker worker;
    std::function<void(Worker&, Index)> what;
    void run(std::size_t i) { what(worker, Index(i)); }
  };
  const auto each = [&](Index count, auto what) {
    parallel(std::size_t(count), threads, [&] { return Run{Worker(call), what}; });
  };
  if (order == NormOrder::groups) {
    const Index chunks = (g.group_count + chunk - 1) / chunk;
    struct Own {
      Worker worker;
      memory::Buffer state;
      const Call& call;
      const NormGeometry& g;
      Index pieces, chunk;
      void run(std::size_t c) {
        const Index first = Index(c) * chunk, last = std::min(first + chunk, g.group_count);
        if (call.measures()) worker.open(Index(c), false);
        for (Index group = first; group < last;) {
          if (const Index done = worker.few(group, last)) {
            group += done;
            continue;
          }
          if (call.measures())
            for (Index p = 0; p < pieces; ++p) worker.measure(group, p, state.data());
          worker.finish_group(group, state.data());
          if (call.writes())
            for (Index p = 0; p < pieces; ++p) worker.write(group, p, state.data());
          ++group;
        }
        if (call.measures()) worker.close(Index(c), false);
      }
    };
    parallel(std::size_t(chunks), threads, [&] {
      return Own{Worker(call), memory::Buffer(std::size_t(state_bytes)), call, g, pieces, chunk};
    });
    return;
  }
  const memory::Buffer states(std::size_t(state_bytes * batch));
  const auto state = [&](Index i) { return states.data() + i * state_bytes; };
  for (Index first = 0; first < g.group_count; first += batch) {
    const Index groups = std::min(batch, g.group_count - first);
    if (call.measures()) {
      if (order == NormOrder::across && call.sums_across())
        each(pieces, [&](Worker& w, Index p) {
          w.open(p, true);
          for (Index i = 0; i < groups; ++i) w.measure(first + i, p, state(i));
          w.close(p, true);
        });
      else
        each(groups * pieces, [&](Worker& w, Index t) {
          w.measure(first + t / pieces, t % pieces, state(t / pieces));
        });
    }
    {
      Worker w(call);
      for (Index i = 0; i < groups; ++i) w.finish_group(first + i, state(i));
    }
    if (!call.writes()) continue;
    if (order == NormOrder::across)
      each(pieces * groups, [&](Worker& w, Index t) { w.write(first + t % groups, t / groups, state(t % groups)); });
    else
      each(groups * pieces, [&](Worker& w, Index t) { w.write(first + t / pieces, t % pieces, state(t / pieces)); });
  }
}

}  // namespace infinitypool
