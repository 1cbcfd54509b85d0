// Stochastic pooling: an element drawn with a probability in proportion to max(w, 0), or what is to be
// expected of that draw (Zeiler and Fergus, "Stochastic Pooling for Regularization", 2013). Where no element is
// positive, all are equally likely. An infinite element is certain, and the first of several is taken.
struct stochastic {
  static constexpr ReducerInfo info{
      .name = "stochastic",
      .numpy = "np.sum(np.maximum(w, 0) * w) / np.sum(np.maximum(w, 0)) if np.max(w) > 0 else np.mean(w)",
      .gradient = Gradient::weighted, .domain = Domain::floats, .selects = true, .gathered = true,
      .parameters = "expectation"};
  static constexpr bool draws = true;
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  template <class A>
  static A empty(const Parameters&) {
    return std::numeric_limits<A>::quiet_NaN();
  }

  template <class A>
  static void reduce(const Side<A>& w, const Parameters& p) {
    if (p.at[0] != 0) expect(w);
    else choose(w);
  }

  template <class A>
  INFINITYPOOL_LOOP void add_weights(double* __restrict total, const A* __restrict x, Index n) {
    for (Index i = 0; i < n; ++i) total[i] += double(x[i] > 0 ? x[i] : A(0));
  }

  template <class A>
  INFINITYPOOL_LOOP void pass(double* __restrict passed, std::uint32_t* __restrict at, std::uint32_t* __restrict nan_at,
                              A* __restrict result, const A* __restrict x, const double* __restrict threshold, Index n,
                              std::uint32_t place, std::uint32_t none) {
    for (Index i = 0; i < n; ++i) passed[i] += double(x[i] > 0 ? x[i] : A(0));
    for (Index i = 0; i < n; ++i) {
      const bool reached = (passed[i] > threshold[i]) | (passed[i] == infinity);
      at[i] = (at[i] == none) & reached ? place : at[i];
    }
    for (Index i = 0; i < n; ++i) nan_at[i] = is_nan(x[i]) ? place : nan_at[i];
    for (Index i = 0; i < n; ++i) result[i] = at[i] == place ? x[i] : result[i];
  }

  // The first element at which the weights up to it exceed draw * total. A draw is at most 1 - 2^-52, so
  // that there always is one.
  template <class A>
  static void choose(const Side<A>& w) {
    const auto none = std::uint32_t(w.count);
    double total[kWindowsAtATime] = {}, passed[kWindowsAtATime] = {};
    std::uint32_t at[kWindowsAtATime], nan_at[kWindowsAtATime];
    for (Index j = 0; j < w.count; ++j) add_weights(total, w.tap[j] + w.at, w.n);
    for (Index i = 0; i < w.n; ++i) {
      at[i] = total[i] > 0 ? none : std::uint32_t(std::int32_t(w.draw[i] * double(w.count)));
      nan_at[i] = none;
      total[i] *= w.draw[i] > 0 ? w.draw[i] : 0x1p-80;
      w.result[i] = 0;
    }
    for (Index j = 0; j < w.count; ++j)
      pass(passed, at, nan_at, w.result, w.tap[j] + w.at, total, w.n, std::uint32_t(j), none);
    for (Index i = 0; i < w.n; ++i) {
      const bool nan = nan_at[i] != none;
      w.result[i] = nan ? std::numeric_limits<A>::quiet_NaN() : w.result[i];
      if (w.chosen) w.chosen[i] = nan ? nan_at[i] : at[i];
    }
  }

  // The sums of the weights, of their squares and of the elements; a NaN if there is one.
  template <class A>
  static void add_up(const Side<A>& w, double* total, double* squares, double* plain, A* nan) {
    for (Index i = 0; i < w.n; ++i) total[i] = squares[i] = plain[i] = 0, nan[i] = 0;
    for (Index j = 0; j < w.count; ++j) add(total, squares, plain, nan, w.tap[j] + w.at, w.n);
  }

  template <class A>
  INFINITYPOOL_LOOP void add(double* __restrict total, double* __restrict squares, double* __restrict plain,
                             A* __restrict nan, const A* __restrict x, Index n) {
    for (Index i = 0; i < n; ++i) {
      const double v = x[i], weight = double(x[i] > 0 ? x[i] : A(0));
      total[i] += weight;
      squares[i] += weight * weight;
      plain[i] += v;
      nan[i] = is_nan(x[i]) ? x[i] : nan[i];
    }
  }

  template <class A>
  static void expect(const Side<A>& w) {
    double total[kWindowsAtATime], squares[kWindowsAtATime], plain[kWindowsAtATime];
    A nan[kWindowsAtATime];
    add_up(w, total, squares, plain, nan);
    for (Index i = 0; i < w.n; ++i) {
      const double weighted = total[i] == infinity ? infinity : squares[i] / total[i];
      const A value = A(total[i] > 0 ? weighted : plain[i] / double(w.count));
      w.result[i] = is_nan(nan[i]) ? nan[i] : value;
    }
  }

  // d result / d x = (2 x - result) / total where x > 0, and 1 / count where no element is positive.
  template <class A>
  INFINITYPOOL_LOOP void give(A* __restrict sum, const A* __restrict x, const A* __restrict grad,
                              const double* __restrict scale, const double* __restrict base,
                              const double* __restrict rest, Index n) {
    for (Index i = 0; i < n; ++i) {
      const double v = x[i], weight = scale[i] * (2 * v - base[i]);
      sum[i] += grad[i] * A(v > 0 ? weight : rest[i]);
    }
  }

  template <class A>
  static void share(const Side<A>& w, const Parameters&) {
    double total[kWindowsAtATime], base[kWindowsAtATime], rest[kWindowsAtATime], scale[kWindowsAtATime];
    A nan[kWindowsAtATime];
    add_up(w, total, base, rest, nan);
    bool special = false;
    for (Index i = 0; i < w.n; ++i) {
      const bool apart = total[i] == infinity || is_nan(nan[i]);
      special = special || apart;
      scale[i] = apart || !(total[i] > 0) ? 0 : 1 / total[i];
      base[i] = apart ? 0 : double(w.result[i]);
      rest[i] = apart || total[i] > 0 ? 0 : 1 / double(w.count);
    }
    for (Index j = 0; j < w.count; ++j) {
      A* sum = w.sum[j] + w.at;
      const A* x = w.tap[j] + w.at;
      if (special) {  // a NaN is everybody's; an infinite total comes from its infinite elements alone
        for (Index i = 0; i < w.n; ++i) {
          const double v = x[i], weight = scale[i] * (2 * v - base[i]);
          const A usual = A(v > 0 ? weight : rest[i]), certain = is_nan(nan[i]) ? nan[i] : A(v == infinity);
          sum[i] += w.grad[i] * (total[i] == infinity || is_nan(nan[i]) ? certain : usual);
        }
      } else {
        give(sum, x, w.grad, scale, base, rest, w.n);
      }
    }
  }
};
