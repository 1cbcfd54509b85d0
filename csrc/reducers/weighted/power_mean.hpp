// The gradient of a power mean: (x / result)^(p - 1) / count; 0 below the floor, and where the result is 0.
struct power_mean {
  static constexpr const char* name = "power_mean";

  template <class A>
  static void share(const Side<A>& w, const Parameters& p) {
    const double power = p.at[0] - 1;
    const A floor = A(p.at[1]), count = A(w.count);
    A weight[kWindowsAtATime];
    for (Index j = 0; j < w.count; ++j) {
      const A* x = w.tap[j] + w.at;
      A* sum = w.sum[j] + w.at;
      for (Index i = 0; i < w.n; ++i) weight[i] = x[i] == w.result[i] ? A(1) : x[i] / w.result[i];
      if (power != 0) power_run(weight, w.n, power);
      else for (Index i = 0; i < w.n; ++i) weight[i] = 1;
      for (Index i = 0; i < w.n; ++i) {
        const A defined = power == 0 || w.result[i] != 0 ? weight[i] / count : A(0);
        sum[i] += w.grad[i] * (x[i] < floor ? A(0) : defined);
      }
    }
  }
};
