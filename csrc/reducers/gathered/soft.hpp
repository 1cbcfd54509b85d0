// Softmax-weighted mean, between the mean (beta = 0) and the maximum: Stergiou, Poppe and Kalliatakis,
// "Refining Activation Downsampling with SoftPool", 2021. Written around every window's peak, the element of
// the largest beta * w: nothing overflows, and elements close together lose no digits.
struct soft {
  static constexpr ReducerInfo info{
      .name = "soft", .numpy = "np.sum(w * np.exp(beta * w)) / np.sum(np.exp(beta * w))",
      .gradient = Gradient::weighted, .domain = Domain::floats, .gathered = true, .parameters = "beta"};

  template <class A>
  static A empty(const Parameters&) {
    return std::numeric_limits<A>::quiet_NaN();
  }

  // The sums of the weights and of weight * (w - peak), both from the peak down.
  template <class A>
  static void add_up(const Side<A>& w, const Slope<A>& slope, A* peak, A* weights, A* sum) {
    find_peak(peak, w, slope);
    for (Index i = 0; i < w.n; ++i) weights[i] = sum[i] = 0;
    for (Index j = 0; j < w.count; ++j) {
      const A* x = w.tap[j] + w.at;
      for (Index i = 0; i < w.n; ++i) {
        const A d = slope.sign * x[i] - peak[i], e = exp_of(slope.size * d);
        weights[i] += e;
        sum[i] += e > 0 ? d * e : 0;  // an infinite distance has no weight
      }
    }
  }

  template <class A>
  static void reduce(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    A peak[kWindowsAtATime], weights[kWindowsAtATime], sum[kWindowsAtATime];
    add_up(w, slope, peak, weights, sum);
    for (Index i = 0; i < w.n; ++i) {
      const A value = peak[i] + sum[i] / weights[i];
      w.result[i] = slope.sign * (peak[i] - peak[i] == 0 ? value : peak[i]);
    }
  }

  // d result / d x = softmax(x) (1 + beta (x - result)). An infinite result takes its gradient from the
  // infinite elements.
  template <class A>
  static void share(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    A peak[kWindowsAtATime], scale[kWindowsAtATime], sum[kWindowsAtATime], mean[kWindowsAtATime];
    add_up(w, slope, peak, scale, sum);
    for (Index i = 0; i < w.n; ++i) {
      const bool finite = peak[i] - peak[i] == 0;
      mean[i] = sum[i] / scale[i];  // the result's distance from the peak
      scale[i] = finite || is_nan(peak[i]) ? w.grad[i] / scale[i] : w.grad[i];
    }
    for (Index j = 0; j < w.count; ++j) {
      const A* x = w.tap[j] + w.at;
      A* to = w.sum[j] + w.at;
      for (Index i = 0; i < w.n; ++i) {
        const A v = slope.sign * x[i], d = v - peak[i], e = exp_of(slope.size * d);
        const A weight = e > 0 || is_nan(d) ? e * (A(1) + slope.size * (d - mean[i])) : A(0);
        const bool infinite = peak[i] - peak[i] != 0 && !is_nan(peak[i]);
        to[i] += scale[i] * (infinite ? A(v == peak[i]) : weight);
      }
    }
  }
};
