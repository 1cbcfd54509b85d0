#include <stdexcept>

#include "parallel.hpp"
#include "rows.hpp"

namespace infinitypool {
namespace {
constexpr Index kSumsBytes = Index(512) << 10;  // of gradients on their way
}

Weigh::Weigh(const PoolArguments& a) {
  plan_.kernels = gathered_isa().gradient(a.reducer.c_str(), a.dtype);
  if (!plan_.kernels) throw std::invalid_argument(a.reducer + " has no weighted gradient for " + name_of(a.dtype));
  if (a.x_strides.size() != a.shape.size() || a.result_strides.size() != a.shape.size())
    throw std::invalid_argument("a weighted gradient needs the strides of x and of the result");
  plan_.plan(a, {a.x_strides, a.out_strides, a.result_strides, a.in_strides}, kIn, true);
  Index inputs = plan_.layout.outer_count() * plan_.layout.inner.size, outputs = inputs;
  for (int i = 0; i <= plan_.outer_axes(); ++i) {
    inputs *= plan_.axes[i].in;
    outputs *= plan_.axes[i].out;
    if (i > 0 && i < plan_.outer_axes()) lines_ *= plan_.axes[i].in;
  }
  plan_.elements = inputs ? inputs + outputs : 0;
  stream_ = static_cast<std::size_t>(inputs) * plan_.kernels->in_size >= kStreamBytes;
  const Index bytes = std::max<Index>(1, lines_ * plan_.row * static_cast<Index>(plan_.kernels->acc_size));
  block_ = std::max(kSumsBytes / bytes, 3 * plan_.axes[0].span());
  block_ = std::min(block_, std::max<Index>(1, plan_.axes[0].in));
}

// Every task owns inputs of the first axis, and adds to them what the outputs that read them give, in the order of
// the outputs. Inputs that others own get theirs in a line that nobody reads.
class WeighWorker {
 public:
  WeighWorker(const Weigh& w, const void* grad, void* grad_in, const void* x, const void* result)
      : w_(w), p_(w.plan_), k_(*p_.kernels), grad_(grad), given_(result),
        out_{grad_in, k_.in_size, p_.layout.axes.back()[kGradIn], p_.layout.inner.stride[kGradIn], w.stream_, &isa()},
        rows_(p_, x, nullptr), output_(p_.outer_axes()), input_(p_.outer_axes()), scratch_([this](Scratch& s) {
          const std::size_t v = k_.acc_size;
          const Index inner = p_.inner_block, line = p_.last().in * inner;
          sums_ = static_cast<char*>(s.take(w_.block_ * w_.lines_ * p_.row, v));
          spare_ = static_cast<char*>(s.take(p_.row, v));
          grads_ = static_cast<char*>(s.take(p_.last().out * inner, v));
          results_ = static_cast<char*>(s.take(p_.last().out * inner, v));
          dense_ = static_cast<char*>(s.take(line, v));
          finished_ = s.take(line, k_.in_size);
        }) {
    std::memset(spare_, 0, static_cast<std::size_t>(p_.row) * k_.acc_size);
  }

  void run(const Task& task) {
    const Axis& top = p_.axes[0];
    inner_ = task.inner_last - task.inner_first;
    base_ = p_.layout.outer_offset(task.unit);
    for (int t = 0; t < kTensors; ++t) base_[t] += task.inner_first * p_.layout.inner.stride[t];
    skipped_ = p_.last().out ? rows_.begin(base_[kIn], inner_, 0, p_.last().out) : 0;
    for (first_ = task.first; first_ < task.last; first_ = end_) {
      end_ = std::min(task.last, first_ + w_.block_);
      std::memset(sums_, 0, static_cast<std::size_t>((end_ - first_) * w_.lines_ * p_.row) * k_.acc_size);
      const auto [low, high] = top.out ? top.readers(first_, end_) : std::pair<Index, Index>{0, -1};
      each_line(p_.axes, output_, &Axis::out, low, high + 1, [this] { give_line(); });
      each_line(p_.axes, input_, &Axis::in, first_, end_, [this] { emit_line(); });
    }
  }

 private:
  void load(char* to, const void* from, GatheredTensor t) {
    Index where = base_[t];
    for (int a = 0; a < p_.outer_axes(); ++a) where += output_[a] * p_.layout.axes[a][t];
    const Index column = p_.last().out == 1 ? inner_ : p_.layout.axes.back()[t];
    k_.load(to, inner_, advance(from, where, k_.in_size),
            {p_.last().out, column, inner_, inner_ == 1 ? 1 : p_.layout.inner.stride[t]});
  }

  void give_line() {
    const Axis& line = p_.last();
    if (line.out == 0) return;
    rows_.gather(output_, lines_, false);
    if (lines_.empty()) return;
    load(grads_, grad_, kOut);
    load(results_, given_, kResult);
    const auto [low, high] = p_.together ? inside(line, 0, line.out) : std::pair<Index, Index>{0, 0};
    for (Index o = 0; o < low; ++o) column(o);
    if (low < high) give(low, 0, (high - low) * inner_, {0, line.kernel, 0});
    for (Index o = high; o < line.out; ++o) column(o);
  }

  void column(Index o) {
    const Window w = p_.last().valid(o);
    if (w.count) give(o, 0, inner_, {0, w.count, w.tap});
  }

  // The windows from o on that have these taps, n elements of them.
  void give(Index o, Index c, Index n, Window taps) {
    const Index start = p_.last().irregular ? p_.last().table[o].first * inner_ : (o - skipped_) * p_.column_step;
    const Index own = first_ * w_.lines_, count = (end_ - first_) * w_.lines_;
    taps_.clear();
    targets_.clear();
    for (const Row& row : lines_) {
      const Index at = row.id - own;
      char* sums = at >= 0 && at < count ? advance(sums_, at * p_.row, k_.acc_size) : spare_;
      for (Index t = taps.tap; t < taps.tap + taps.count; ++t) {
        const Index place = p_.shift(t) + start + c;
        taps_.push_back(advance(row.values, place, k_.acc_size));
        targets_.push_back(advance(sums, place, k_.acc_size));
      }
    }
    Windows w{};
    w.tap = taps_.data();
    w.sum = targets_.data();
    w.count = static_cast<Index>(taps_.size());
    w.n = n;
    w.result = advance(results_, o * inner_ + c, k_.acc_size);
    w.grad = advance(grads_, o * inner_ + c, k_.acc_size);
    k_.share(w, p_.parameters);
  }

  // The sums of a line of inputs, which may lie in phases; inputs that no window reaches get 0.
  void emit_line() {
    const Axis& line = p_.last();
    Index id = 0, where = base_[kGradIn];
    for (int a = 0; a < p_.outer_axes(); ++a) {
      id = id * p_.axes[a].in + input_[a];
      where += input_[a] * p_.layout.axes[a][kGradIn];
    }
    const char* sums = advance(sums_, (id - first_ * w_.lines_) * p_.row, k_.acc_size);
    const std::size_t run = static_cast<std::size_t>(inner_) * k_.acc_size;
    std::memset(dense_, 0, static_cast<std::size_t>(line.in) * run);
    const Index step = p_.stretch();
    for (std::size_t j = 0; j < p_.phases.size() && line.out; ++j) {
      const auto [first, n, at] = rows_.held(j);
      if (n <= 0) continue;
      const char* from = advance(sums, at, k_.acc_size);
      char* to = dense_ + static_cast<std::size_t>(first) * run;
      if (step == 1) std::memcpy(to, from, static_cast<std::size_t>(n) * run);
      else if (run == 4) spread<std::uint32_t>(to, from, n, step);
      else if (run == 8) spread<std::uint64_t>(to, from, n, step);
      else for (Index i = 0; i < n; ++i) std::memcpy(to + static_cast<std::size_t>(i * step) * run, from + static_cast<std::size_t>(i) * run, run);
    }
    if (k_.direct) return out_.store(where, dense_, line.in, inner_);
    k_.finish(finished_, dense_, line.in * inner_);
    out_.store(where, finished_, line.in, inner_);
  }

  template <class T>
  static void spread(char* to_, const char* from_, Index n, Index step) {
    auto* to = reinterpret_cast<T*>(to_);
    auto* from = reinterpret_cast<const T*>(from_);
    if (step == 2) for (Index i = 0; i < n; ++i) to[2 * i] = from[i];
    else for (Index i = 0; i < n; ++i) to[i * step] = from[i];
  }

  const Weigh& w_;
  const GatheredPlan& p_;
  const GatheredKernels& k_;
  const void *grad_, *given_;
  const Target out_;
  Rows rows_;
  std::vector<Row> lines_;
  std::vector<const void*> taps_;
  std::vector<void*> targets_;
  std::vector<Index> output_, input_;
  Index inner_ = 1, first_ = 0, end_ = 0, skipped_ = 0;
  Strides base_{};
  char *sums_ = nullptr, *spare_ = nullptr, *grads_ = nullptr, *results_ = nullptr, *dense_ = nullptr;
  void* finished_ = nullptr;
  Scratch scratch_;
};

void Weigh::run(const void* grad, void* grad_in, const void* x, const void* result) const {
  if (plan_.elements == 0) return;
  const int threads = plan_.elements < kParallelElements ? 1 : thread_count();
  const Axis& first = plan_.axes.front();
  const auto tasks = split(plan_.layout, first.in, first.irregular ? first.kernel : first.span(), plan_.inner_block,
                           threads);
  parallel(tasks, threads, [&] { return WeighWorker(*this, grad, grad_in, x, result); });
}

}  // namespace infinitypool
