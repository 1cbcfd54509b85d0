// Log-sum-exp: a smooth maximum (beta > 0) or minimum (beta < 0), which approaches both as |beta| grows.
// Every window's largest beta * w is taken out first, so that no exponential overflows.
struct log_sum_exp {
  static constexpr ReducerInfo info{
      .name = "log_sum_exp", .numpy = "np.log(np.sum(np.exp(beta * w))) / beta",
      .gradient = Gradient::weighted, .domain = Domain::floats, .gathered = true, .parameters = "beta"};

  template <class A>
  static A empty(const Parameters& p) {
    return p.at[0] > 0 ? lowest<A> : highest<A>;
  }

  template <class A>
  INFINITYPOOL_LOOP void add(A* __restrict sum, const A* __restrict x, const A* __restrict peak, Index n,
                             const Slope<A> slope) {
    for (Index i = 0; i < n; ++i) sum[i] += exp_of(slope.size * below(slope.sign * x[i], peak[i]));
  }

  template <class A>
  INFINITYPOOL_LOOP void finish(A* __restrict result, const A* __restrict sum, const A* __restrict peak, Index n,
                                const Slope<A> slope) {
    for (Index i = 0; i < n; ++i) result[i] = slope.sign * (peak[i] + log_of(sum[i]) / slope.size);
  }

  template <class A>
  static void reduce(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    A peak[kWindowsAtATime], sum[kWindowsAtATime] = {};
    find_peak(peak, w, slope);
    for (Index j = 0; j < w.count; ++j) add(sum, w.tap[j] + w.at, peak, w.n, slope);
    finish(w.result, sum, peak, w.n, slope);
  }

  // d result / d x = e^(beta (x - result)). Infinite elements share as the peaks they are.
  template <class A>
  INFINITYPOOL_LOOP void give(A* __restrict sum, const A* __restrict x, const A* __restrict result,
                              const A* __restrict grad, Index n, const Slope<A> slope) {
    for (Index i = 0; i < n; ++i)
      sum[i] += grad[i] * exp_of(slope.size * below(slope.sign * x[i], slope.sign * result[i]));
  }

  template <class A>
  static void share(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    for (Index j = 0; j < w.count; ++j) give(w.sum[j] + w.at, w.tap[j] + w.at, w.result, w.grad, w.n, slope);
  }
};
