#include "gathered.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "parallel.hpp"
#include "rows.hpp"

namespace infinitypool {
namespace {

constexpr Index kRowsBytes = Index(512) << 10;  // of the lines that windows reach over
constexpr Index kStride = 1024;  // lines of longer steps are not split into phases
constexpr Index kChunk = 2048;  // windows between two stores

void store_place(void* to, std::size_t size, std::uint64_t place) {
  if (size == 1) *static_cast<std::uint8_t*>(to) = static_cast<std::uint8_t>(place);
  else if (size == 2) *static_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(place);
  else if (size == 4) *static_cast<std::uint32_t*>(to) = static_cast<std::uint32_t>(place);
  else *static_cast<std::uint64_t*>(to) = place;
}

}  // namespace

// Batcher's odd-even merge sort ("Sorting Networks and Their Applications", 1968) for any count, without the
// exchanges that do not matter to the ranks asked for.
Network network_of(Index count, Index low, Index high) {
  std::vector<Exchange> all;
  for (Index p = 1; p < count; p += p)
    for (Index k = p; k >= 1; k /= 2)
      for (Index j = k % p; j + k < count; j += 2 * k)
        for (Index i = 0; i < k && i + j + k < count; ++i)
          if ((i + j) / (2 * p) == (i + j + k) / (2 * p))
            all.push_back({static_cast<std::uint16_t>(i + j), static_cast<std::uint16_t>(i + j + k)});
  std::vector<bool> matters(count, false);
  matters[low] = matters[high] = true;
  Network network;
  for (std::size_t i = all.size(); i-- > 0;)
    if (matters[all[i].low] || matters[all[i].high]) {
      matters[all[i].low] = matters[all[i].high] = true;
      network.exchanges.push_back(all[i]);
    }
  std::reverse(network.exchanges.begin(), network.exchanges.end());
  return network;
}

void GatheredPlan::plan(const PoolArguments& a, const std::array<Shape, kTensors>& strides, int lead, bool whole_lines) {
  axes = axes_of(a);
  parameters = a.parameters;
  masked = a.masked;
  omits = a.omits_nans && kernels->any_nan;
  layout = layout_of(a.shape, strides, a.axes, lead);
  if (layout.line_axis_added) axes.push_back(Axis{});
  if (axes.size() == 1) take_outer_axis(layout, axes);
  inner_block = layout.inner_block();
  Index outputs = layout.outer_count() * layout.inner.size, inputs = outputs;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    axes[i].in_stride = layout.axes[i][kIn];
    axes[i].out_stride = layout.axes[i][kOut];
    outputs *= axes[i].out;
    inputs *= axes[i].in;
    if (__builtin_mul_overflow(window, std::min(axes[i].kernel, std::max<Index>(1, axes[i].in)), &window))
      throw std::bad_alloc();
  }
  elements = outputs ? outputs + inputs : 0;

  const Axis& line = last();
  const Dim& inner = layout.inner;
  split = !line.irregular && line.stride > 1 && line.stride <= kStride && inner_block < kLanes && line.out > 1;
  together = !line.irregular && (line.stride == 1 || split || line.out == 1);
  direct = kernels->direct && !split && !masked && (inner.size == 1 || inner.stride[kIn] == 1) &&
           (line.in == 1 || line.in_stride == inner.size);
  for (int i = 0; i < outer_axes(); ++i) {
    held.push_back(std::max<Index>(1, axes[i].irregular ? axes[i].kernel : std::min(axes[i].span(), axes[i].in)));
    if (__builtin_mul_overflow(slots, held.back(), &slots)) throw std::bad_alloc();
  }

  column_step = split ? inner_block : (line.irregular ? 0 : line.stride * inner_block);
  if (split) {
    phase_of.assign(line.stride, 0);
    for (Index t = 0; t < std::min(line.kernel, line.stride); ++t) {
      const Index phase = t * line.dilation % line.stride;
      if (std::find(phases.begin(), phases.end(), phase) != phases.end()) break;
      phase_of[phase] = static_cast<Index>(phases.size());
      phases.push_back(phase);
    }
  } else {
    phases.push_back(0);
  }
  columns = line.out;
  if (!line.irregular && !direct && !whole_lines) {
    const Index column_bytes = slots * static_cast<Index>(phases.size() * kernels->acc_size) * column_step;
    columns = std::clamp<Index>(kRowsBytes / std::max<Index>(1, column_bytes), std::min<Index>(line.out, 64),
                                std::max<Index>(1, line.out));
  }
  const Index positions = line.irregular ? line.in : std::min((columns - 1) * line.stride + line.span(), line.in + line.stride);
  phase_length = (split ? positions / line.stride + 1 : positions) * inner_block;
  row = phase_length * static_cast<Index>(phases.size());
}

Gathered::Gathered(const PoolArguments& a) {
  plan_.kernels = gathered_isa().find(a.reducer.c_str(), a.dtype);
  if (!plan_.kernels) throw std::invalid_argument(a.reducer + " is not defined for " + name_of(a.dtype));
  Shape number(a.shape.size());  // strides of the output's C order: they number the draws
  Index step = 1;
  for (std::size_t d = a.shape.size(); d-- > 0;) {
    number[d] = step;
    const auto pooled = std::find(a.axes.begin(), a.axes.end(), static_cast<int>(d));
    step *= pooled == a.axes.end() ? a.shape[d] : a.windows[pooled - a.axes.begin()].out;
  }
  if (!plan_.kernels->draws) number.clear();
  places_ = a.places;
  place_size_ = a.places == Places::plane ? 8 : offset_size(axes_of(a));
  plan_.plan(a, {a.in_strides, a.out_strides, number, {}}, kIn, false);
  Index outputs = plan_.layout.outer_count() * plan_.layout.inner.size;
  for (const Axis& axis : plan_.axes) outputs *= axis.out;
  stream_ = static_cast<std::size_t>(outputs) * plan_.kernels->in_size >= kStreamBytes;
  if (plan_.kernels->ranks && plan_.window > 0 && plan_.window <= kNetwork) {
    Index low, high;
    plan_.kernels->ranks(plan_.window, plan_.parameters, &low, &high);
    network_ = network_of(plan_.window, low, high);
  }
}

class GatheredWorker {
 public:
  GatheredWorker(const Gathered& g, const void* in, void* out, void* places, const std::uint8_t* mask,
                 std::uint64_t seed)
      : g_(g), p_(g.plan_), k_(*p_.kernels), seed_(seed),
        out_{out, k_.in_size, p_.last().out_stride, p_.layout.inner.stride[kOut], g.stream_, &isa()},
        places_{places, g.place_size_, p_.last().out_stride, p_.layout.inner.stride[kOut], false, &isa()},
        rows_(p_, in, mask), output_(p_.outer_axes()),
        scratch_([this](Scratch& s) {
          const Index n = std::max(kChunk, p_.inner_block);
          result_ = s.take(n, k_.acc_size);
          finished_ = s.take(n, k_.in_size);
          draws_ = static_cast<double*>(s.take(k_.draws ? n : 1, sizeof(double)));
          chosen_ = static_cast<std::uint32_t*>(s.take(tracks() ? n : 1, sizeof(std::uint32_t)));
          narrowed_ = static_cast<char*>(s.take(tracks() ? n : 1, g_.place_size_));
          values_ = static_cast<char*>(s.take(p_.window, k_.acc_size));
          room_ = s.take(p_.window, k_.acc_size);
          taken_ = static_cast<std::uint64_t*>(s.take(tracks() ? p_.window : 1, sizeof(std::uint64_t)));
        }) {
    k_.empty(empty_, p_.parameters);
  }

  void run(const Task& task) {
    const Axis& line = p_.last();
    inner_ = task.inner_last - task.inner_first;
    base_ = p_.layout.outer_offset(task.unit);
    for (int t = 0; t < kTensors; ++t) base_[t] += task.inner_first * p_.layout.inner.stride[t];
    for (Index first = 0; first < line.out; first += p_.columns) {
      first_ = first;
      end_ = std::min(line.out, first + p_.columns);
      skipped_ = rows_.begin(base_[kIn], inner_, first, end_);
      each_line(p_.axes, output_, &Axis::out, task.first, task.last, [this] { pool_line(); });
    }
  }

  // Windows that still wait, from any of the tasks.
  void finish() {
    for (auto& [count, batch] : batches_) flush(count, batch);
  }

 private:
  bool tracks() const { return g_.places_ != Places::none; }
  bool plane() const { return g_.places_ == Places::plane; }

  void pool_line() {
    const Axis& line = p_.last();
    rows_.gather(output_, lines_, plane());
    where_ = base_;
    for (int a = 0; a < p_.outer_axes(); ++a)
      for (int t = 0; t < kTensors; ++t) where_[t] += output_[a] * p_.layout.axes[a][t];
    bool whole = true;
    for (const Row& row : lines_) whole = whole && row.whole;
    if (p_.direct && !lines_.empty())
      ahead_.consumed(advance(lines_.back().values, line.in * inner_, k_.in_size));
    const bool slides = k_.slides && slide() && !tracks();
    const bool sorts = k_.ranks == nullptr || slides || static_cast<Index>(lines_.size()) * line.kernel <= kNetwork;
    auto [low, high] = inside(line, first_, end_);
    // A few windows wait for more rather than be reduced among themselves.
    const bool few = (p_.together ? (high - low) * inner_ : inner_) < kLanes;
    if (!whole || lines_.empty() || !sorts || few) low = high = first_;
    for (Index o = first_; o < low; ++o) column(o, whole && sorts);
    if (low < high && p_.together) side_by_side(low, high - low, {0, line.kernel, 0});
    else for (Index o = low; o < high; ++o) side_by_side(o, 1, {0, line.kernel, 0});
    for (Index o = high; o < end_; ++o) column(o, whole && sorts);
  }

  // Is every window of a line the one before, one element on?
  bool slide() const {
    return !p_.last().irregular && p_.last().stride == 1 && p_.last().dilation == 1 && inner_ == 1;
  }

  // Where window o starts in a line.
  Index start(Index o) const {
    return p_.last().irregular ? p_.last().table[o].first * inner_ : (o - first_ - skipped_) * p_.column_step;
  }

  void column(Index o, bool whole) {
    const Window w = p_.last().valid(o);
    const Window taps{0, w.count, w.tap};
    if (whole && inner_ >= kLanes && w.count && !lines_.empty()) return side_by_side(o, 1, taps);
    for (Index c = 0; c < inner_; ++c) collect(o, c, taps);
  }

  const Network& network(Index count) {
    if (count == p_.window) return g_.network_;
    auto [at, fresh] = networks_.try_emplace(count);
    if (fresh) {
      Index low, high;
      k_.ranks(count, p_.parameters, &low, &high);
      at->second = network_of(count, low, high);
    }
    return at->second;
  }

  void reduce(Windows& w) {
    if (k_.ranks && w.count <= kNetwork) {
      const Network& sorting = network(w.count);
      w.network = sorting.exchanges.data();
      w.exchanges = static_cast<Index>(sorting.exchanges.size());
    }
    k_.reduce(w, p_.parameters);
  }

  std::uint64_t line_place(Index o, Index tap) const {  // of a window's tap along the line
    const Axis& line = p_.last();
    if (!plane()) return static_cast<std::uint64_t>(tap) * line.tap_place;
    return static_cast<std::uint64_t>((line.start(o) + tap * (line.irregular ? 1 : line.dilation)) * line.input_place);
  }

  // Windows [o, o + columns) with the same taps, all of whose elements take part.
  void side_by_side(Index o, Index columns, Window taps) {
    Windows w{};
    taps_.clear();
    for (const Row& row : lines_)
      for (Index t = taps.tap; t < taps.tap + taps.count; ++t)
        taps_.push_back(advance(row.values, p_.shift(t) + start(o), k_.acc_size));
    w.count = static_cast<Index>(taps_.size());
    w.columns = slide() ? taps.count : 0;
    Index chunk = std::max<Index>(1, kChunk / inner_);
    for (Index c = 0; c < columns; c += chunk) {
      const Index m = std::min(chunk, columns - c);
      w.tap = taps_.data();
      w.n = m * inner_;
      Index to[kTensors];
      for (int t = 0; t < kTensors; ++t) to[t] = where_[t] + (o + c) * p_.layout.axes.back()[t];
      const bool lies = k_.direct && !out_.streams && out_.contiguous(m, inner_);
      w.result = lies ? out_.at(to[kOut]) : result_;
      if (k_.draws) {
        draw_columns(to[kNumber], m);
        w.draw = draws_;
      }
      w.chosen = tracks() ? chosen_ : nullptr;
      ahead_.ask(w.n * static_cast<Index>(k_.in_size));
      reduce(w);
      if (!lies) emit(to[kOut], m);
      if (tracks()) {
        char* place = narrowed_;
        for (Index i = 0; i < w.n; ++i, place += g_.place_size_) {
          const Index j = chosen_[i];
          store_place(place, g_.place_size_,
                      lines_[j / taps.count].place + line_place(o + c + i / inner_, taps.tap + j % taps.count));
        }
        places_.store(to[kOut], narrowed_, m, inner_);
      }
      for (const void*& tap : taps_) tap = advance(tap, w.n, k_.acc_size);
    }
  }

  void draw_columns(Index number, Index columns) {
    const Index column = p_.layout.axes.back()[kNumber], inner = p_.layout.inner.stride[kNumber];
    const auto& table = gathered_isa();
    if (inner_ == 1) return table.draw(draws_, columns, number, column, seed_);
    for (Index c = 0; c < columns; ++c) table.draw(draws_ + c * inner_, inner_, number + c * column, inner, seed_);
  }

  void emit(Index to, Index columns) {
    if (k_.direct) return out_.store(to, result_, columns, inner_);
    k_.finish(finished_, result_, columns * inner_);
    out_.store(to, finished_, columns, inner_);
  }

  // ------------------------------------------------------------------ windows on their own

  // Windows of the same count wait until they can be reduced side by side.
  struct Batch {
    Index room = 0, n = 0;
    std::vector<char> values;           // [count][room]
    std::vector<std::uint64_t> places;  // [room][count]
    std::vector<double> draws;
    std::vector<Index> where;
  };

  void collect(Index o, Index c, Window taps) {
    const std::size_t size = k_.acc_size;
    Index count = 0;
    const bool adjacent = !tracks() && !p_.split && inner_ == 1 && (p_.last().irregular || p_.last().dilation == 1);
    for (const Row& row : lines_) {
      const Index at = start(o) + c;
      if (row.whole && adjacent) {
        std::memcpy(advance(values_, count, size), advance(row.values, at + p_.shift(taps.tap), size),
                    static_cast<std::size_t>(taps.count) * size);
        count += taps.count;
        continue;
      }
      for (Index t = taps.tap; t < taps.tap + taps.count; ++t) {
        const char* value = advance(row.values, at + p_.shift(t), size);
        if (!row.whole) {
          if (row.mask && !row.mask[at + p_.shift(t)]) continue;
          if (p_.omits && k_.any_nan(value, 1)) continue;
        }
        std::memcpy(advance(values_, count, size), value, size);
        if (tracks()) taken_[count] = row.place + line_place(o, t);
        ++count;
      }
    }
    const auto& column = p_.layout.axes.back();
    const auto& inner = p_.layout.inner.stride;
    const Index to = where_[kOut] + o * column[kOut] + c * inner[kOut];
    double draw = 0;
    if (k_.draws) gathered_isa().draw(&draw, 1, where_[kNumber] + o * column[kNumber] + c * inner[kNumber], 0, seed_);
    if (count == 0) {
      put(to, empty_);
      if (tracks()) store_place(places_.at(to), g_.place_size_, plane() ? ~std::uint64_t(0) : 0);
    } else if (k_.reduce_one && count > kNetwork) {
      std::uint32_t chosen = 0;
      char result[8];
      k_.reduce_one(values_, room_, count, result, tracks() ? &chosen : nullptr, p_.parameters);
      put(to, result);
      if (tracks()) store_place(places_.at(to), g_.place_size_, taken_[chosen]);
    } else {
      wait(count, to, draw);
    }
  }

  void put(Index to, const void* result) {
    if (k_.direct) {
      std::memcpy(out_.at(to), result, k_.in_size);
    } else {
      k_.finish(finished_, result, 1);
      std::memcpy(out_.at(to), finished_, k_.in_size);
    }
  }

  void wait(Index count, Index to, double draw) {
    Batch& batch = batches_[count];
    if (batch.room == 0) {
      batch.room = count <= 256 ? 64 : count <= 4096 ? 32 : count <= 16384 ? 8 : 1;
      batch.values.resize(static_cast<std::size_t>(count * batch.room) * k_.acc_size);
      if (tracks()) batch.places.resize(static_cast<std::size_t>(count * batch.room));
      batch.draws.resize(batch.room);
      batch.where.resize(batch.room);
    }
    const std::size_t size = k_.acc_size;
    char* value = advance(batch.values.data(), batch.n, size);
    const auto spread = [&](auto zero) {
      using T = decltype(zero);
      auto* d = reinterpret_cast<T*>(value);
      auto* s = reinterpret_cast<const T*>(values_);
      for (Index j = 0; j < count; ++j) d[j * batch.room] = s[j];
    };
    if (size == 1) spread(std::uint8_t{});
    else if (size == 2) spread(std::uint16_t{});
    else if (size == 4) spread(std::uint32_t{});
    else spread(std::uint64_t{});
    if (tracks()) std::copy(taken_, taken_ + count, batch.places.begin() + batch.n * count);
    batch.draws[batch.n] = draw;
    batch.where[batch.n] = to;
    if (++batch.n == batch.room) flush(count, batch);
  }

  void flush(Index count, Batch& batch) {
    if (batch.n == 0) return;
    taps_.resize(count);
    for (Index j = 0; j < count; ++j) taps_[j] = advance(batch.values.data(), j * batch.room, k_.acc_size);
    Windows w{};
    w.tap = taps_.data();
    w.count = count;
    w.n = batch.n;
    w.draw = k_.draws ? batch.draws.data() : nullptr;
    w.result = result_;
    w.chosen = tracks() ? chosen_ : nullptr;
    reduce(w);
    for (Index i = 0; i < batch.n; ++i) {
      put(batch.where[i], advance(result_, i, k_.acc_size));
      if (tracks()) store_place(places_.at(batch.where[i]), g_.place_size_, batch.places[i * count + chosen_[i]]);
    }
    batch.n = 0;
  }

  const Gathered& g_;
  const GatheredPlan& p_;
  const GatheredKernels& k_;
  const std::uint64_t seed_;
  const Target out_, places_;
  Rows rows_;
  std::vector<Row> lines_;
  std::vector<const void*> taps_;
  std::map<Index, Network> networks_;
  std::map<Index, Batch> batches_;
  Index inner_ = 1, first_ = 0, end_ = 0, skipped_ = 0;
  Strides base_{}, where_{};
  ReadAhead ahead_;
  std::vector<Index> output_;
  char empty_[8];
  void *result_ = nullptr, *finished_ = nullptr, *room_ = nullptr;
  double* draws_ = nullptr;
  std::uint32_t* chosen_ = nullptr;
  char *narrowed_ = nullptr, *values_ = nullptr;
  std::uint64_t* taken_ = nullptr;
  Scratch scratch_;
};

void Gathered::run(const void* in, void* out, void* places, const std::uint8_t* mask, std::uint64_t seed) const {
  if (plan_.elements == 0) return;
  const int threads = plan_.elements < kParallelElements ? 1 : thread_count();
  const Axis& first = plan_.axes.front();
  const Index halo = first.irregular ? 1 : first.span() / std::max<Index>(1, first.stride);
  const auto tasks = split(plan_.layout, first.out, halo, plan_.inner_block, threads);
  parallel(tasks, threads, [&] { return GatheredWorker(*this, in, out, places, mask, seed); });
}

}  // namespace infinitypool
