#include "norm_pool.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>

#include "../memory/recycler.hpp"
#include "../walkers/parallel.hpp"
#include "../walkers/target.hpp"

namespace infinitypool {
namespace {

// A core's share of the caches, and what is worth a call of two plans. Smaller blocks than the first stay in nearer
// caches, but bands of channels last lose more to their borders than that brings.
constexpr Index kMostBytes = Index(2) << 20, kLeastBytes = Index(64) << 10;

Index product(const Shape& sizes, std::size_t first) {
  return std::accumulate(sizes.begin() + std::ptrdiff_t(first), sizes.end(), Index(1), std::multiplies<>());
}

}  // namespace

NormPool::NormPool(const NormArguments& norm, const PoolArguments& pool) : norm_(norm), pool_(pool) {
  const Shape& sizes = norm_.sizes;
  if (sizes.size() < 3 || pool_.shape != sizes || pool_.axes.size() + 2 != sizes.size() || pool_.axes.front() != 2)
    throw std::invalid_argument("all axes behind the channels are to be pooled");
  order_.resize(sizes.size());
  std::iota(order_.begin(), order_.end(), std::size_t(0));
  std::stable_sort(order_.begin(), order_.end(),
                   [&](std::size_t a, std::size_t b) { return norm_.x_strides[a] < norm_.x_strides[b]; });

  const Index size = Index(size_of(norm_.dtype)), samples = sizes[0], channels = sizes[1];
  const Index plane = product(sizes, 2) * size, sample = plane * channels, line = product(sizes, 3) * size;
  const Index most = std::clamp(samples * sample / (4 * thread_count()), kLeastBytes, kMostBytes);
  const WindowArguments& window = pool_.windows.front();
  const Index span = (window.kernel - 1) * window.dilation + 1;
  const bool apart = !window.adaptive && (window.out - 1) * window.stride - window.before < sizes[2];
  const bool channels_last = norm_.x_strides[1] == 1 && channels > 1;

  Index at_once = 1, wide = channels, results = window.out;
  const auto fitting = [&](Index bytes) {  // results whose lines, so many bytes each, fit
    return std::max<Index>(1, (most / bytes - span) / window.stride + 1);
  };
  if (sample <= most) {
    at_once = std::min(samples, most / sample);
  } else if (channels_last) {  // all channels, as the runs of a few are too short
    if (apart) results = std::min(results, fitting(line * channels));
  } else {
    wide = std::clamp<Index>(most / plane, 1, channels);
    if (plane > most && apart) results = std::min(results, fitting(line));
  }

  const std::vector<Band> all = bands(results);
  for (Index n = 0; n < samples; n += at_once)
    for (Index c = 0; c < channels; c += wide)
      for (const Band& band : all)
        blocks_.push_back({n * norm_.x_strides[0] + c * norm_.x_strides[1] + band.lines.first * norm_.x_strides[2],
                           n * pool_.out_strides[0] + c * pool_.out_strides[1] +
                               band.results.first * pool_.out_strides[2],
                           c, plans_for(std::min(at_once, samples - n), std::min(wide, channels - c), band)});
}

std::vector<NormPool::Band> NormPool::bands(Index results) const {
  const WindowArguments& w = pool_.windows.front();
  const Index lines = norm_.sizes[2];
  if (results == w.out) return {{{0, lines}, {0, w.out}, w.before, w.after}};
  std::vector<Band> list;
  for (Index o = 0; o < w.out; o += results) {
    const Index n = std::min(results, w.out - o), start = o * w.stride - w.before;
    const Index end = start + (n - 1) * w.stride + (w.kernel - 1) * w.dilation + 1;
    const Index first = std::max<Index>(start, 0), last = std::max(first + 1, std::min(end, lines));
    list.push_back({{first, last - first}, {o, n}, first - start, end < lines ? 0 : w.after});
  }
  return list;
}

const NormPool::Plans* NormPool::plans_for(Index samples, Index channels, const Band& band) {
  auto& plans = plans_[{samples, channels, band.lines.size, band.results.size, band.before, band.after}];
  if (plans) return plans.get();
  NormArguments norm = norm_;
  norm.sizes[0] = samples, norm.sizes[1] = channels, norm.sizes[2] = band.lines.size;
  Index step = 1;
  for (const std::size_t axis : order_) norm.out_strides[axis] = step, step *= norm.sizes[axis];
  norm.other_strides = norm.out_strides;
  PoolArguments pool = pool_;
  pool.shape = norm.sizes, pool.in_strides = norm.out_strides;
  WindowArguments& window = pool.windows.front();
  window.before = band.before, window.after = band.after, window.out = band.results.size;
  room_ = std::max(room_, std::size_t(step) * size_of(norm.dtype));
  plans = std::make_unique<Plans>(Plans{Norm(norm), Pool(pool)});
  return plans.get();
}

void NormPool::run(const void* x, void* out, const void* weight, const void* bias, const void* mean,
                   const void* var) const {
  const std::size_t size = size_of(norm_.dtype), parameter = size_of(norm_.parameter_dtype);
  const std::size_t given = size_of(norm_.given_dtype);
  struct Worker {
    const std::function<void(const Block&, char*)>& what;
    const std::vector<Block>& blocks;
    memory::Buffer room;
    void run(std::size_t i) { what(blocks[i], room.data()); }
  };
  const std::function<void(const Block&, char*)> what = [&](const Block& b, char* room) {
    const auto at = [&](const void* list, std::size_t bytes) {
      return list ? advance(list, b.channel, bytes) : nullptr;
    };
    b.plans->norm.apply(advance(x, b.x, size), room, at(weight, parameter), at(bias, parameter), at(mean, given),
                        at(var, given));
    b.plans->pool.run(room, advance(out, b.out, size), nullptr);
  };
  // The plans share a few large blocks among the threads themselves.
  const int threads = blocks_.size() < std::size_t(thread_count()) ? 1 : thread_count();
  parallel(blocks_.size(), threads, [&] { return Worker{what, blocks_, memory::Buffer(room_)}; });
}

}  // namespace infinitypool
