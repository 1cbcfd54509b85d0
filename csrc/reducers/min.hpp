// Minimum: the first of equals wins, and a NaN wins over everything, the last one of several.
struct min {
  static constexpr ReducerInfo info{
      .name = "min", .numpy = "np.min(w)", .gradient = Gradient::winner, .domain = Domain::all,
      .idempotent = true, .selects = true};

  template <class A>
  static constexpr A identity = highest<A>;

  // Does b, the later element, replace a? Clean runs are known to hold no NaN.
  template <bool clean, class A>
  static bool replaces(A a, A b) {
    if constexpr (clean) return b < a;
    else return bool(b < a) | is_nan(b);
  }
};
