// Power mean: the p-th root of the mean of p-th powers, of elements raised to a floor where they lie below
// it. With p = 2 and no floor the root mean square; with a small positive floor the generalised mean (GeM).
struct power_mean {
  static constexpr ReducerInfo info{
      .name = "power_mean", .numpy = "np.mean(np.maximum(w, floor) ** p) ** (1 / p)",
      .gradient = Gradient::weighted, .domain = Domain::floats, .divides = true, .parameters = "p floor"};

  template <class A>
  static constexpr A identity = A(0);

  template <class A>
  static A add(A a, A b) {
    return a + b;
  }

  template <class A>
  static void lift(A* x, Index n, const Parameters& p) {
    const A floor = A(p.at[1]);
    if (floor > lowest<A>)
      for (Index i = 0; i < n; ++i) x[i] = x[i] < floor ? floor : x[i];
    power_run(x, n, p.at[0]);
  }

  template <class A>
  static void lower(A* x, Index n, const Parameters& p) {
    power_run(x, n, 1 / p.at[0]);
  }
};
