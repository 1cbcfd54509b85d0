// Sum: a tree of additions whose shape depends on the window's length alone.
struct sum {
  static constexpr ReducerInfo info{
      .name = "sum", .numpy = "np.sum(w)", .gradient = Gradient::even};

  template <class A>
  static constexpr A identity = A(0);

  template <class A>
  static A add(A a, A b) {
    return wrapping_add(a, b);
  }
};
