#include "fractional.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "parallel.hpp"
#include "scratch.hpp"
#include "target.hpp"

namespace infinitypool {

Fractional::Fractional(const FractionalArguments& a)
    : kernels_(gathered_isa().elements(a.dtype)), dtype_(a.dtype), places_(a.places) {
  const std::size_t n = a.axes.size(), d = a.shape.size();
  if (n == 0 || a.kernel.size() != n || a.out.size() != n || a.in_strides.size() != d || a.out_strides.size() != d)
    throw std::invalid_argument("one size per pooled axis and one stride per axis are needed");
  for (int i = 0; i < static_cast<int>(d); ++i) {
    const auto pooled = std::find(a.axes.begin(), a.axes.end(), i) - a.axes.begin();
    if (pooled == static_cast<Index>(n)) {
      outer_.push_back({a.shape[i], {a.in_strides[i], a.out_strides[i]}});
      planes_ *= a.shape[i];
      continue;
    }
    if (pooled != static_cast<Index>(axes_.size())) throw std::invalid_argument("axes must ascend within the shape");
    const Axis axis{a.shape[i], a.out[pooled], a.kernel[pooled], a.in_strides[i], a.out_strides[i], starts_};
    if (axis.kernel < 1 || axis.out < 0) throw std::invalid_argument("not a window");
    starts_ += axis.out;
    inputs_ *= axis.in;
    outputs_ *= axis.out;
    if (__builtin_mul_overflow(window_, axis.kernel, &window_)) throw std::bad_alloc();
    axes_.push_back(axis);
  }
  if (axes_.size() != n) throw std::invalid_argument("axes must ascend within the shape");
  place_size_ = places_ == Places::plane ? 8 : window_ <= 256 ? 1 : window_ <= 65536 ? 2 : window_ <= (Index(1) << 32) ? 4 : 8;
}

void Fractional::check(const Index* starts) const {
  for (Index plane = 0; plane < planes_; ++plane)
    for (std::size_t a = 0; a < axes_.size(); ++a)
      for (Index o = 0; o < axes_[a].out; ++o) {
        const Index start = starts[plane * starts_ + axes_[a].first_start + o];
        if (start < 0 || start > axes_[a].in - axes_[a].kernel)
          throw std::invalid_argument("window " + std::to_string(o) + " of plane " + std::to_string(plane) +
                                      " starts at " + std::to_string(start) + " and reaches beyond the input of " +
                                      std::to_string(axes_[a].in) + " elements");
      }
}

Index Fractional::at(Index plane, bool out) const {
  Index where = 0;
  for (std::size_t i = outer_.size(); i-- > 0; plane /= outer_[i].size)
    where += plane % outer_[i].size * outer_[i].stride[out];
  return where;
}

template <class Body>
void Fractional::each_plane(Body body) const {
  struct Worker {
    Body& body;
    void run(const Task& task) { body(task.unit); }
  };
  std::vector<Task> tasks;
  for (Index plane = 0; plane < planes_; ++plane) tasks.push_back({plane, 0, 1, 0, 1});
  const int threads = planes_ * (inputs_ + outputs_) < kParallelElements ? 1 : thread_count();
  parallel(tasks, threads, [&] { return Worker{body}; });
}

// visit(where its result goes, where its window starts, that start's position in the plane) for every output of a
// plane, in order.
template <class Visit>
void Fractional::each_output(const Index* starts, Visit visit) const {
  std::vector<Index> o(axes_.size(), 0);
  if (outputs_ == 0) return;
  for (;;) {
    Index to = 0, from = 0, position = 0;
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      const Index start = starts[axes_[a].first_start + o[a]];
      to += o[a] * axes_[a].out_stride;
      from += start * axes_[a].in_stride;
      position = position * axes_[a].in + start;
    }
    visit(to, from, position);
    std::size_t a = axes_.size();
    while (a > 0 && ++o[a - 1] == axes_[a - 1].out) o[--a] = 0;
    if (a == 0) return;
  }
}

namespace {

// Where every tap lies from its window's start, given what one step along each axis adds.
template <class Axes, class Step>
std::vector<Index> taps_of(const Axes& axes, Index window, Step step) {
  std::vector<Index> taps(window, 0);
  for (Index t = 0; t < window; ++t) {
    Index rest = t;
    for (std::size_t a = axes.size(); a-- > 0; rest /= axes[a].kernel) taps[t] += rest % axes[a].kernel * step(a);
  }
  return taps;
}

}  // namespace

void Fractional::run(const void* x, void* out, void* places, const Index* starts) const {
  check(starts);
  if (planes_ == 0 || outputs_ == 0) return;
  std::vector<Index> plane_step(axes_.size(), 1);
  for (std::size_t a = axes_.size() - 1; a-- > 0;) plane_step[a] = plane_step[a + 1] * axes_[a + 1].in;
  const auto taps = taps_of(axes_, window_, [&](std::size_t a) { return axes_[a].in_stride; });
  const auto positions = taps_of(axes_, window_, [&](std::size_t a) { return plane_step[a]; });
  const std::size_t size = size_of(dtype_);
  each_plane([&](Index plane) {
    const char* src = advance(x, at(plane, false), size);
    const Index base = at(plane, true);
    each_output(starts + plane * starts_, [&](Index to, Index from, Index position) {
      const char* window = advance(src, from, size);
      const Index tap = kernels_->find_max(window, taps.data(), window_);
      std::memcpy(advance(out, base + to, size), advance(window, taps[tap], size), size);
      if (places_ == Places::none) return;
      const std::uint64_t place = places_ == Places::plane ? static_cast<std::uint64_t>(position + positions[tap])
                                                           : static_cast<std::uint64_t>(tap);
      std::memcpy(advance(places, base + to, place_size_), &place, place_size_);  // little endian
    });
  });
}

template <class A>
void Fractional::add_up(A* sums, const A* grad, const void* offsets, const Index* starts) const {
  std::vector<Index> plane_step(axes_.size(), 1);
  for (std::size_t a = axes_.size() - 1; a-- > 0;) plane_step[a] = plane_step[a + 1] * axes_[a + 1].in;
  const auto positions = taps_of(axes_, window_, [&](std::size_t a) { return plane_step[a]; });
  Index output = 0;
  each_output(starts, [&](Index to, Index, Index position) {
    std::uint64_t tap = 0;
    std::memcpy(&tap, advance(offsets, to, place_size_), place_size_);
    sums[position + positions[tap < static_cast<std::uint64_t>(window_) ? tap : 0]] += grad[output++];
  });
}

void Fractional::backward(const void* grad, const void* offsets, void* grad_in, const Index* starts) const {
  if (!is_floating(dtype_) || places_ != Places::offset)
    throw std::invalid_argument("gradients need a floating-point dtype and offsets");
  check(starts);
  const GatheredKernels& k = *kernels_;
  each_plane([&](Index plane) {
    char *sums = nullptr, *grads = nullptr, *finished = nullptr;
    Scratch scratch([&](Scratch& s) {
      sums = static_cast<char*>(s.take(inputs_, k.acc_size));
      grads = static_cast<char*>(s.take(outputs_, k.acc_size));
      finished = static_cast<char*>(s.take(inputs_, k.in_size));
    });
    std::memset(sums, 0, static_cast<std::size_t>(inputs_) * k.acc_size);
    const Index base = at(plane, true);
    char* next = grads;
    each_output(starts + plane * starts_, [&](Index to, Index, Index) {
      k.load(next, 1, advance(grad, base + to, k.in_size), {1, 1, 1, 1});
      next += k.acc_size;
    });
    const void* places = advance(offsets, base, place_size_);
    if (k.acc_size == 8) add_up(reinterpret_cast<double*>(sums), reinterpret_cast<double*>(grads), places, starts + plane * starts_);
    else add_up(reinterpret_cast<float*>(sums), reinterpret_cast<float*>(grads), places, starts + plane * starts_);
    k.finish(finished, sums, inputs_);
    const char* from = finished;
    std::vector<Index> i(axes_.size(), 0);
    char* to = advance(grad_in, at(plane, false), k.in_size);
    for (Index n = 0; n < inputs_; ++n, from += k.in_size) {
      Index where = 0;
      for (std::size_t a = 0; a < axes_.size(); ++a) where += i[a] * axes_[a].in_stride;
      std::memcpy(advance(to, where, k.in_size), from, k.in_size);
      for (std::size_t a = axes_.size(); a > 0 && ++i[a - 1] == axes_[a - 1].in;) i[--a] = 0;
    }
  });
}

}  // namespace infinitypool
