// Mean: the sum, divided by the count of elements when the window is finished.
struct mean {
  static constexpr ReducerInfo info{
      .name = "mean", .numpy = "np.mean(w)", .gradient = Gradient::even,
      .divides = true};

  template <class A>
  static constexpr A identity = A(0);

  template <class A>
  static A add(A a, A b) {
    return wrapping_add(a, b);
  }
};
