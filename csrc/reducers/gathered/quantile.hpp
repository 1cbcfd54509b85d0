// Quantile: the element of rank q * (count - 1), or what lies between the two next to it (NumPy's "linear",
// "lower", "higher" and "nearest"; Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996, type 7).
// A NaN in the window is the result.
struct quantile {
  static constexpr ReducerInfo info{
      .name = "quantile",
      .numpy = "np.quantile(w, q, method=('linear', 'lower', 'higher', 'nearest')[int(method)])",
      .gradient = Gradient::winner, .selects = true, .gathered = true, .parameters = "q method"};

  struct Rank {
    Index low, high;
    double part;  // of the way from low to high

    Rank(Index count, const Parameters& p) {
      const double rank = p.at[0] * double(count - 1);
      const int method = int(p.at[1]);
      double floor = __builtin_floor(rank);
      part = rank - floor;
      if (method == 2) floor = __builtin_ceil(rank);
      if (method == 3) floor += part > 0.5 || (part == 0.5 && (Index(floor) & 1));
      if (method != 0) part = 0;
      low = Index(floor);
      low = low < 0 ? 0 : low < count ? low : count - 1;
      high = part > 0 && low + 1 < count ? low + 1 : low;
    }
  };

  static void ranks(Index count, const Parameters& p, Index* low, Index* high) {
    const Rank rank(count, p);
    *low = rank.low;
    *high = rank.high;
  }

  template <class A>
  static A empty(const Parameters&) {
    return std::numeric_limits<A>::quiet_NaN();  // 0 of integers
  }

  template <class A>
  static A between(A a, A b, double part) {
    if (part == 0) return positive_zero(a);
    if constexpr (std::is_floating_point_v<A>) {
      const double x = a, y = b, d = y - x;
      const double value = part < 0.5 ? x + d * part : y - d * (1 - part);
      return positive_zero(A(d - d == 0 ? value : x == y ? x : x * (1 - part) + y * part));
    } else if constexpr (sizeof(A) < 8) {
      const double x = a, y = b, d = y - x;
      const double value = part < 0.5 ? x + d * part : y - d * (1 - part);
      const double nearest = (value + 0x1.8p52) - 0x1.8p52;  // ties to even
      return A(std::conditional_t<sizeof(A) < 4, std::int32_t, std::int64_t>(nearest));
    } else {  // from a upwards: the distance may be wider than a double's digits, and than A
      const auto distance = static_cast<unsigned __int128>(std::uint64_t(b) - std::uint64_t(a));
      const auto way = distance * std::uint64_t(part * 0x1p63);  // in units of 2^-63
      const std::uint64_t rest = std::uint64_t(way) & ((std::uint64_t(1) << 63) - 1), half = std::uint64_t(1) << 62;
      std::uint64_t v = std::uint64_t(a) + std::uint64_t(way >> 63);
      v += rest > half || (rest == half && (v & 1));
      return A(v);
    }
  }

  // Equal zeros come in no order: their result has no sign.
  template <class A>
  static A positive_zero(A x) {
    if constexpr (std::is_floating_point_v<A>) return x + A(0);
    else return x;
  }

  template <class A>
  static A middle(A a, A b, A c) {
    exchange(a, b);
    exchange(b, c);
    return a < b ? b : a;
  }

  template <class A>
  struct SortedColumns {
    // Long enough for stores to settle before they are read again, and two columns over; a line apart.
    static constexpr Index kBlock = 1024 / (sizeof(A) > 2 ? sizeof(A) / 2 : 1), kFront = 64 / sizeof(A);
    alignas(64) A room[3][kFront + kBlock + kFront];
    A* column(int rank) { return room[rank] + kFront - 2; }

    // Columns [to, to + n) of three lines; whether there is a NaN among them.
    bool sort(const A* __restrict x, const A* __restrict y, const A* __restrict z, Index to, Index n) {
      A *__restrict low = column(0) + to, *__restrict mid = column(1) + to, *__restrict high = column(2) + to;
      std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t> nans = 0;
      for (Index i = 0; i < n; ++i) {
        A a = x[i], b = y[i], c = z[i];
        if constexpr (std::is_floating_point_v<A>) nans |= is_nan(a) | is_nan(b) | is_nan(c);
        exchange(a, b);
        exchange(b, c);
        exchange(a, b);
        low[i] = a;
        mid[i] = b;
        high[i] = c;
      }
      return nans;
    }

    // The middle one of the columns' largest least, middle middle and least largest elements.
    void medians(A* __restrict to, Index n) {
      const A *__restrict low = column(0), *__restrict mid = column(1), *__restrict high = column(2);
      for (Index i = 0; i < n; ++i) {
        A least = low[i] < low[i + 1] ? low[i + 1] : low[i];
        least = least < low[i + 2] ? low[i + 2] : least;
        A largest = high[i + 1] < high[i] ? high[i + 1] : high[i];
        largest = high[i + 2] < largest ? high[i + 2] : largest;
        to[i] = positive_zero(middle(least, middle(mid[i], mid[i + 1], mid[i + 2]), largest));
      }
    }
  };

  // Medians of three by three neighbours: a sorted column serves three windows. False if there is a NaN.
  template <class A>
  INFINITYPOOL_LOOP bool medians_of_nine(const A* x, const A* y, const A* z, A* to, Index n) {
    constexpr Index kBlock = SortedColumns<A>::kBlock;
    SortedColumns<A> columns;
    bool nans = columns.sort(x, y, z, 0, 2);
    for (Index at = 0; at < n && !nans; at += kBlock) {
      if (n < kBlock) {
        nans = columns.sort(x + 2, y + 2, z + 2, 2, n);
        columns.medians(to, n);
        continue;
      }
      if (at + kBlock > n) {  // the last block overlaps the one before: all are of a length that compilers know
        at = n - kBlock;
        columns.sort(x + at, y + at, z + at, 0, 2);
      }
      nans = columns.sort(x + at + 2, y + at + 2, z + at + 2, 2, kBlock);
      columns.medians(to + at, kBlock);
      for (int rank = 0; rank < 3; ++rank) {
        A* kept = columns.column(rank);
        kept[0] = kept[kBlock];
        kept[1] = kept[kBlock + 1];
      }
    }
    return !nans;
  }

  // Counts of all values of 8 bits, which windows of any size slide over: Huang, Yang and Tang, "A Fast
  // Two-Dimensional Median Filtering Algorithm", 1979.
  template <class A>
  static constexpr bool slides = sizeof(A) == 1;
  static constexpr Index kSlides = 121;  // in smaller windows, sorting networks are quicker

  template <class A>
  INFINITYPOOL_LOOP void slide(const Windows& w, const Rank& rank) {
    constexpr int shift = std::is_signed_v<A> ? 128 : 0;
    auto* tap = reinterpret_cast<const A* const*>(w.tap);
    auto* to = static_cast<A*>(w.result);
    std::uint32_t counts[256] = {};
    for (Index j = 0; j < w.count; ++j) ++counts[int(*tap[j]) + shift];
    int v = 0;
    Index below = 0;  // elements less than v
    for (Index i = 0;;) {
      while (below > rank.low) below -= counts[--v];
      while (below + Index(counts[v]) <= rank.low) below += counts[v++];
      int next = v;
      if (below + Index(counts[v]) <= rank.high)
        for (++next; !counts[next];) ++next;
      to[i] = between(A(v - shift), A(next - shift), rank.part);
      if (++i == w.n) return;
      for (Index r = 0; r < w.count; r += w.columns) {
        const int gone = int(tap[r][i - 1]) + shift, come = int(tap[r][i - 1 + w.columns]) + shift;
        --counts[gone];
        ++counts[come];
        below += (come < v) - (gone < v);
      }
    }
  }

  // All windows of a line at once, where there is a quicker way than one by one.
  template <class A>
  static bool reduce_all(const Windows& w, const Parameters& p) {
    if (w.chosen) return false;
    const Rank rank(w.count, p);
    auto* tap = reinterpret_cast<const A* const*>(w.tap);
    auto* to = static_cast<A*>(w.result);
    if constexpr (slides<A>)
      if (w.columns && w.count >= kSlides) {
        slide<A>(w, rank);
        return true;
      }
    if (rank.low != w.count / 2 || rank.part != 0) return false;
    if (w.count == 9 && w.columns == 3) return medians_of_nine(tap[0], tap[3], tap[6], to, w.n);
    if (w.count == 5) return MedianNetwork<5>::medians(to, tap, w.n);
    if (w.count == 9) return MedianNetwork<9>::medians(to, tap, w.n);
    if (w.count == 25) return MedianNetwork<25>::medians(to, tap, w.n);
    return false;
  }

  template <class A>
  static void reduce(const Side<A>& w, const Parameters& p) {
    const Rank rank(w.count, p);
    sort_windows(w, rank.low, rank.high, [&](A* __restrict to, const A* low, const A* high, Index n) {
      if (rank.part == 0) for (Index i = 0; i < n; ++i) to[i] = positive_zero(low[i]);
      else for (Index i = 0; i < n; ++i) to[i] = between(low[i], high[i], rank.part);
    });
    if constexpr (std::is_floating_point_v<A>)
      for (Index j = 0; j < w.count; ++j) {
        const A* x = w.tap[j] + w.at;
        for (Index i = 0; i < w.n; ++i) w.result[i] = is_nan(x[i]) ? x[i] : w.result[i];
      }
    if (!w.chosen) return;
    for (Index i = 0; i < w.n; ++i) w.chosen[i] = 0;
    for (Index j = w.count; j-- > 0;) {  // the first of equals, the last NaN
      const A* x = w.tap[j] + w.at;
      const auto place = std::uint32_t(j);
      for (Index i = 0; i < w.n; ++i) w.chosen[i] = x[i] == w.result[i] ? place : w.chosen[i];
    }
    if constexpr (std::is_floating_point_v<A>)
      for (Index j = 0; j < w.count; ++j) {
        const A* x = w.tap[j] + w.at;
        const auto place = std::uint32_t(j);
        for (Index i = 0; i < w.n; ++i) w.chosen[i] = is_nan(x[i]) ? place : w.chosen[i];
      }
  }

  template <class A>
  static A reduce_one(const A* x, A* room, Index count, std::uint32_t* chosen, const Parameters& p) {
    if constexpr (std::is_floating_point_v<A>)
      for (Index j = count; j-- > 0;)
        if (is_nan(x[j])) {
          if (chosen) *chosen = std::uint32_t(j);
          return x[j];
        }
    const Rank rank(count, p);
    A high{};
    const A low = select(x, room, count, rank.low, &high);
    const A value = between(low, rank.high > rank.low ? high : low, rank.part);
    if (chosen) {
      *chosen = 0;
      for (Index j = 0; j < count; ++j)
        if (x[j] == value) {
          *chosen = std::uint32_t(j);
          break;
        }
    }
    return value;
  }
};
