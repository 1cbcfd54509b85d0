#include "layout.hpp"

#include <algorithm>
#include <atomic>

#include "parallel.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace infinitypool {
namespace {

// A run of this many elements is worth a line of its own.
constexpr Index kLongRun = 1024;

bool extends(const Dim& run, const Dim& next) {
  for (int t = 0; t < kTensors; ++t)
    if (next.stride[t] != run.stride[t] * run.size) return false;
  return true;
}

std::atomic<int> thread_limit{0};  // 0: whatever OpenMP says
std::atomic<bool> forked{false};

}  // namespace

Index Layout::outer_count() const {
  Index n = 1;
  for (const Dim& d : outer) n *= d.size;
  return n;
}

Strides Layout::outer_offset(Index unit) const {
  Strides offset{};
  for (std::size_t i = outer.size(); i-- > 0;) {
    const Index at = unit % outer[i].size;
    unit /= outer[i].size;
    for (int t = 0; t < kTensors; ++t) offset[t] += at * outer[i].stride[t];
  }
  return offset;
}

Layout layout_of(const Shape& shape, const std::array<Shape, kTensors>& strides, const std::vector<int>& axes,
                 int lead, bool apart) {
  Layout layout;
  std::vector<Dim> rest;
  for (int d = 0; d < static_cast<int>(shape.size()); ++d) {
    Strides s{};
    for (int t = 0; t < kTensors; ++t) s[t] = strides[t].empty() ? 0 : strides[t][d];
    if (std::find(axes.begin(), axes.end(), d) != axes.end()) layout.axes.push_back(s);
    else if (shape[d] != 1) rest.push_back({shape[d], s});
  }

  const bool planes = apart || layout.axes.back()[lead] == 1;
  layout.inner = {1, {1, 1, 1, 1}};
  if (!planes) {
    auto unit = std::find_if(rest.begin(), rest.end(), [&](const Dim& d) { return d.stride[lead] == 1; });
    if (unit != rest.end()) {
      layout.inner = *unit;
      rest.erase(unit);
      for (auto next = rest.begin(); next != rest.end();)
        if (extends(layout.inner, *next)) {
          layout.inner.size *= next->size;
          rest.erase(next);
          next = rest.begin();
        } else {
          ++next;
        }
    }
  }

  for (const Dim& d : rest) {  // outer dims that lie behind one another become one
    if (!layout.outer.empty() && extends(d, layout.outer.back())) {
      layout.outer.back() = {layout.outer.back().size * d.size, d.stride};
    } else {
      layout.outer.push_back(d);
    }
  }

  if (layout.inner.size >= kLongRun || (layout.axes.size() == 1 && layout.inner.size > 1)) {
    layout.axes.push_back({});
    layout.line_axis_added = true;
  }
  return layout;
}

void take_outer_axis(Layout& layout, std::vector<Axis>& axes) {
  Axis axis;
  Strides strides{};
  if (!layout.outer.empty()) {
    axis.in = axis.out = layout.outer.back().size;
    strides = layout.outer.back().stride;
    layout.outer.pop_back();
  }
  axis.count.assign(axis.out, 1.0);
  axes.insert(axes.begin(), axis);
  layout.axes.insert(layout.axes.begin(), strides);
}

void stack_planes(Layout& layout, std::vector<Axis>& axes) {
  if (axes.size() < 2 || layout.outer.size() != 1 || layout.line_axis_added) return;
  Axis& axis = axes.front();
  const Dim& planes = layout.outer.front();
  Index elements = planes.size * layout.inner.size;
  for (const Axis& each : axes) elements *= each.in;
  if (elements >= kParallelElements || !axis.regular() || axis.irregular || axis.per_plane || axis.before != 0 ||
      axis.spacing != 1 || axis.in != axis.out * axis.stride || axis.span() > axis.stride || !axis.constant_count)
    return;
  for (int t = 0; t < kTensors; ++t)
    if (planes.stride[t] != layout.axes.front()[t] * (t == 0 ? axis.in : axis.out)) return;
  axis.in *= planes.size;
  axis.out *= planes.size;
  if (!axis.count.empty()) axis.count.assign(axis.out, axis.count.front());
  layout.outer.clear();
}

std::vector<Task> split(const Layout& layout, Index axis_size, Index axis_halo, Index inner_block,
                        int threads) {
  const Index units = layout.outer_count();
  const Index inner = layout.inner.size;
  if (units == 0 || inner == 0) return {};
  const Index blocks = (inner + inner_block - 1) / inner_block;
  Index bands = 1;
  if (units * blocks < 4 * threads && threads > 1) {
    bands = (4 * threads + units * blocks - 1) / (units * blocks);
    // A band reads its halo anew: keep it small against the band.
    bands = std::max<Index>(1, std::min(bands, axis_size / (axis_halo ? std::max<Index>(4, 2 * axis_halo) : 1)));
  }
  std::vector<Task> tasks;
  tasks.reserve(units * bands * blocks);
  for (Index unit = 0; unit < units; ++unit)
    for (Index block = 0; block < blocks; ++block)
      for (Index band = 0; band < bands; ++band)
        tasks.push_back({unit, axis_size * band / bands, axis_size * (band + 1) / bands, block * inner_block,
                         std::min(inner, (block + 1) * inner_block)});
  return tasks;
}

int thread_count() {
  // The pool's threads do not survive a fork; a child that waited for them would wait for ever.
  if (forked.load(std::memory_order_relaxed)) return 1;
#if defined(_OPENMP)
  if (omp_in_parallel()) return 1;  // the threads have work already
  const int limit = thread_limit.load(std::memory_order_relaxed);
  const int available = omp_get_max_threads();
  return limit > 0 ? limit : available;
#else
  return 1;
#endif
}

void set_thread_count(int n) {
  thread_limit.store(n, std::memory_order_relaxed);
}

std::string openmp_runtime() {
#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) && info.dli_fname) return info.dli_fname;
#endif
#if defined(_OPENMP)
  return "OpenMP";
#else
  return "none";
#endif
}

namespace {
#if defined(__unix__) || defined(__APPLE__)
const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif
}  // namespace

}  // namespace infinitypool
