#include "dropout.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include "../table.hpp"
#include "../walkers/parallel.hpp"
#include "../walkers/target.hpp"

namespace infinitypool {

INFINITYPOOL_TABLE_OF_ISA(DropoutTable, dropout)

namespace {

constexpr Index kBlock = 8 * kSuperblock;  // elements drawn at a time: draws and results stay in the first cache
constexpr Index kTask = 128 * kBlock;

class DropoutWorker {
 public:
  DropoutWorker(std::size_t size, std::uint64_t threshold, const Mixture& mixture, DType dtype, const void* x,
                const void* residual, void* out, bool streams, std::uint64_t seed)
      : isa_(dropout_isa()), mix_(isa_.mix[static_cast<int>(dtype)]), size_(size), threshold_(threshold),
        mixture_(mixture), x_(x), residual_(residual), out_(out), streams_(streams), seed_(seed) {}

  void run(const Task& t) {
    for (Index at = t.first; at < t.last; at += kBlock) {
      const Index n = std::min(kBlock, t.last - at), bytes = n * static_cast<Index>(size_);
      const char* x = advance(x_, at, size_);
      const char* residual = residual_ ? advance(residual_, at, size_) : nullptr;
      x_ahead_.consumed(x + bytes);
      x_ahead_.ask(bytes);
      if (residual) {
        residual_ahead_.consumed(residual + bytes);
        residual_ahead_.ask(bytes);
      }
      isa_.draw(keep_, static_cast<std::uint64_t>(at / kSuperblock), (n + kSuperblock - 1) / kSuperblock, threshold_,
                seed_);
      char* out = advance(out_, at, size_);
      mix_(streams_ ? results_ : out, x, residual, keep_, n, mixture_);
      if (streams_) isa().stream(out, results_, static_cast<std::size_t>(bytes));
    }
  }

 private:
  const DropoutTable& isa_;
  const MixLoop mix_;
  const std::size_t size_;
  const std::uint64_t threshold_;
  const Mixture mixture_;
  const void* const x_;
  const void* const residual_;
  void* const out_;
  const bool streams_;
  const std::uint64_t seed_;
  ReadAhead x_ahead_, residual_ahead_;
  alignas(64) std::uint32_t keep_[kBlock];
  alignas(64) char results_[kBlock * 8];
};

}  // namespace

Dropout::Dropout(DType dtype, double p, Mixture mixture) : dtype_(dtype), mixture_(mixture) {
  if (!(p >= 0 && p <= 1)) throw std::invalid_argument("p must be between 0 and 1");
  if (!is_floating(dtype)) throw std::invalid_argument("dropout needs a floating-point dtype");
  threshold_ = static_cast<std::uint64_t>(std::nearbyint(std::ldexp(p, 32)));
}

void Dropout::run(const void* x, const void* residual, void* out, Index n, std::uint64_t seed) const {
  const std::size_t size = size_of(dtype_);
  const int threads = n < kParallelElements ? 1 : thread_count();
  // In place, lines are in the cache when they are written.
  const bool streams = out != x && out != residual && static_cast<std::size_t>(n) * size > kStreamBytes;
  const auto worker = [&] {
    return DropoutWorker(size, threshold_, mixture_, dtype_, x, residual, out, streams, seed);
  };
  if (threads == 1) {
    worker().run({0, 0, n, 0, 1});
    drain_stores();
    return;
  }
  const Index task = std::min(kTask, std::max(kBlock, n / (4 * threads) / kBlock * kBlock));
  std::vector<Task> tasks;
  for (Index at = 0; at < n; at += task) tasks.push_back({0, at, std::min(n, at + task), 0, 1});
  parallel(tasks, threads, worker);
}

void Dropout::factors(double* factors, double* offsets, Index n, std::uint64_t seed) const {
  std::uint32_t keep[kSuperblock];
  for (Index at = 0; at < n; at += kSuperblock) {
    dropout_isa().draw(keep, static_cast<std::uint64_t>(at / kSuperblock), 1, threshold_, seed);
    for (Index i = 0; i < std::min(kSuperblock, n - at); ++i) {
      factors[at + i] = keep[i] ? mixture_.scale : 0;
      if (offsets) offsets[at + i] = keep[i] ? mixture_.kept : mixture_.dropped;
    }
  }
}

}  // namespace infinitypool
