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
  INFINITYPOOL_LOOP void add(A* __restrict weights, A* __restrict sum, const A* __restrict x, const A* __restrict peak,
                             Index n, const Slope<A> slope) {
    for (Index i = 0; i < n; ++i) {
      const A d = below(slope.sign * x[i], peak[i]), e = exp_of(slope.size * d);
      weights[i] += e;
      sum[i] += (e > 0 ? d : A(0)) * e;  // an infinite distance has no weight
    }
  }

  template <class A>
  static void add_up(const Side<A>& w, const Slope<A>& slope, A* peak, A* weights, A* sum) {
    find_peak(peak, w, slope);
    for (Index i = 0; i < w.n; ++i) weights[i] = sum[i] = 0;
    for (Index j = 0; j < w.count; ++j) add(weights, sum, w.tap[j] + w.at, peak, w.n, slope);
  }

  template <class A>
  static void reduce(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    A peak[kWindowsAtATime], weights[kWindowsAtATime], sum[kWindowsAtATime];
    add_up(w, slope, peak, weights, sum);
    for (Index i = 0; i < w.n; ++i) w.result[i] = slope.sign * (peak[i] + sum[i] / weights[i]);
  }

  // d result / d x = softmax(x) (1 + beta (x - result)), with `scale` the gradient over the sum of the weights and
  // `mean` the result's distance from the peak. Infinite peaks share an infinite result's gradient.
  template <class A>
  INFINITYPOOL_LOOP void give(A* __restrict to, const A* __restrict x, const A* __restrict peak,
                              const A* __restrict scale, const A* __restrict mean, Index n, const Slope<A> slope) {
    for (Index i = 0; i < n; ++i) {
      const A d = below(slope.sign * x[i], peak[i]), e = exp_of(slope.size * d);
      const A weight = A(1) + slope.size * (d - mean[i]);
      to[i] += scale[i] * (e * (e > 0 ? weight : A(0)));
    }
  }

  template <class A>
  static void share(const Side<A>& w, const Parameters& p) {
    const Slope<A> slope(p.at[0]);
    A peak[kWindowsAtATime], scale[kWindowsAtATime], mean[kWindowsAtATime];
    add_up(w, slope, peak, scale, mean);
    for (Index i = 0; i < w.n; ++i) {
      mean[i] /= scale[i];
      scale[i] = w.grad[i] / scale[i];
    }
    for (Index j = 0; j < w.count; ++j) give(w.sum[j] + w.at, w.tap[j] + w.at, peak, scale, mean, w.n, slope);
  }
};
