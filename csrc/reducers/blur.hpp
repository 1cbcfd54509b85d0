// Blur: a mean whose weights are a row of Pascal's triangle along every axis, the low pass before
// subsampling (Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019). Windows are built by
// adding two neighbours again and again.
struct blur {
  static constexpr ReducerInfo info{
      .name = "blur", .numpy = "np.average(w, weights=binomial)",
      .gradient = Gradient::even, .domain = Domain::floats, .divides = true, .binomial = true};

  template <class A>
  static constexpr A identity = A(0);

  template <class A>
  static A add(A a, A b) {
    return a + b;
  }
};
