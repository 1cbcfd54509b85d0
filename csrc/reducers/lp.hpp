// Power sum: the p-th root of the sum of p-th powers; where p is odd, with the sum's sign.
struct lp {
  static constexpr ReducerInfo info{
      .name = "lp", .numpy = "np.sign(np.sum(w**p)) * np.abs(np.sum(w**p)) ** (1 / p)",
      .gradient = Gradient::weighted, .domain = Domain::floats, .parameters = "p"};

  template <class A>
  static constexpr A identity = A(0);

  template <class A>
  static A add(A a, A b) {
    return a + b;
  }

  template <class A>
  static void lift(A* x, Index n, const Parameters& p) {
    power_run(x, n, p.at[0]);
  }

  template <class A>
  static void lower(A* x, Index n, const Parameters& p) {
    signed_power_run(x, n, 1 / p.at[0]);
  }
};
