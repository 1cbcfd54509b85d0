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
  static void reduce(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    A peak[kWindowsAtATime], sum[kWindowsAtATime] = {};
    find_peak(peak, w, slope);
    for (Index j = 0; j < w.count; ++j) {
      const A* x = w.tap[j] + w.at;
      for (Index i = 0; i < w.n; ++i) sum[i] += exp_of(slope.size * (slope.sign * x[i] - peak[i]));
    }
    for (Index i = 0; i < w.n; ++i) {
      const A value = peak[i] + log_of(sum[i]) / slope.size;
      w.result[i] = slope.sign * (peak[i] - peak[i] == 0 ? value : peak[i]);  // infinite and NaN peaks stay
    }
  }

  // d result / d x = e^(beta (x - result)). An infinite result comes from its infinite elements alone.
  template <class A>
  static void share(const Side<A>& w, const Parameters& p) {
    const A beta = A(p.at[0]);
    for (Index j = 0; j < w.count; ++j) {
      const A* x = w.tap[j] + w.at;
      A* sum = w.sum[j] + w.at;
      for (Index i = 0; i < w.n; ++i) {
        const A weight = x[i] == w.result[i] ? A(1) : exp_of(beta * (x[i] - w.result[i]));
        sum[i] += w.grad[i] * weight;
      }
    }
  }
};
