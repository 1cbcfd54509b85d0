// The gradient of a power sum's root: |x / result|^(p - 1), with signs where p is odd: 0 where the result is 0.
struct lp {
  static constexpr const char* name = "lp";

  template <class A>
  static void share(const Side<A>& w, const Parameters& p) {
    const double power = p.at[0] - 1;
    const bool odd = p.at[0] * 0.5 != __builtin_floor(p.at[0] * 0.5) && p.at[0] == __builtin_floor(p.at[0]);
    A scale[kWindowsAtATime], weight[kWindowsAtATime];
    for (Index i = 0; i < w.n; ++i) scale[i] = w.result[i] < 0 ? -w.result[i] : w.result[i];
    for (Index j = 0; j < w.count; ++j) {
      const A* x = w.tap[j] + w.at;
      A* sum = w.sum[j] + w.at;
      for (Index i = 0; i < w.n; ++i) {
        const A size = x[i] < 0 ? -x[i] : x[i];
        weight[i] = size == scale[i] ? A(1) : size / scale[i];  // infinite ones share as equals
      }
      if (power != 0) {
        power_run(weight, w.n, power);
        // Odd powers rise everywhere, even ones fall below 0, and others are not defined there.
        if (!odd) for (Index i = 0; i < w.n; ++i) weight[i] = x[i] < 0 ? -weight[i] : weight[i];
      } else {
        for (Index i = 0; i < w.n; ++i) weight[i] = 1;
      }
      for (Index i = 0; i < w.n; ++i)
        sum[i] += w.grad[i] * (power == 0 || scale[i] != 0 ? weight[i] : A(0));
    }
  }
};
