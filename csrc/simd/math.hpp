// Exponentials, logarithms, powers and roots, the same bits for every instruction set: plain arithmetic
// that compilers vectorise, with one rounding after another.

// The double or float whose lowest bits are the integer next to x, for |x| < 2^51 or 2^22: adding this
// rounds to nearest, and the bits are the integer's.
template <class A>
inline constexpr A kRounder = sizeof(A) == 8 ? A(0x1.8p52) : A(0x1.8p23);

// e^x for x <= 700 (double) or 85 (float); results below the least normal number are 0, as n then has the
// exponent of 0. Within one unit in the last place or so: x = n ln 2 + r, and the Taylor series of e^r,
// |r| <= ln 2 / 2.
template <class A>
inline A exp_of(A x) {
  constexpr bool wide = sizeof(A) == 8;
  constexpr A least = wide ? A(-709.2) : A(-88);  // n is -1023 or -127
  constexpr A high = wide ? A(0x1.62e42fefa3800p-1) : A(0x1.63p-1);  // ln 2 in two parts: n * high is exact
  constexpr A low = wide ? A(0x1.ef35793c76730p-45) : A(-0x1.bd0106p-13);
  const A t = x < least ? least : x;
  const A shifted = t * A(1.4426950408889634074) + kRounder<A>;
  const A n = shifted - kRounder<A>;
  const A r = (t - n * high) - n * low;
  A tail;  // (e^r - 1 - r) / r^2
  if constexpr (wide) {
    tail = A(1.0 / 6227020800);
    tail = tail * r + A(1.0 / 479001600);
    tail = tail * r + A(1.0 / 39916800);
    tail = tail * r + A(1.0 / 3628800);
    tail = tail * r + A(1.0 / 362880);
    tail = tail * r + A(1.0 / 40320);
    tail = tail * r + A(1.0 / 5040);
  } else {
    tail = A(1.0 / 5040);
  }
  tail = tail * r + A(1.0 / 720);
  tail = tail * r + A(1.0 / 120);
  tail = tail * r + A(1.0 / 24);
  tail = tail * r + A(1.0 / 6);
  tail = tail * r + A(0.5);
  const A value = A(1) + (r + tail * (r * r));
  if constexpr (wide) return value * bits_as<double>((bits_as<std::uint64_t>(shifted) << 52) + 0x3ff0000000000000u);
  else return value * bits_as<float>((bits_as<std::uint32_t>(shifted) << 23) + 0x3f800000u);
}

// ln x of a double that is 0, infinite or normal and positive; NaN for NaN. x = 2^n (1 + f), and with
// s = f / (2 + f), ln(1 + f) = 2 artanh s. Written as f - (f^2/2 - s (f^2/2 + R)), as in Sun's fdlibm (1993).
inline double log_of(double x) {
  constexpr std::uint64_t root = 0x3fe6a09e667f3bcdu;  // sqrt(1/2): 1 + f is between it and its double
  const std::uint64_t bits = bits_as<std::uint64_t>(x);
  const std::uint64_t power = (bits - root + (std::uint64_t(1024) << 52)) >> 52;  // n + 1024, without a sign
  const double n = bits_as<double>(0x4338000000000000u + power) - (0x1.8p52 + 1024);
  const double f = bits_as<double>(bits - ((power - 1024) << 52)) - 1;
  const double s = f / (2 + f), z = s * s, half = 0.5 * f * f;
  double rest = 2.0 / 23;
  rest = rest * z + 2.0 / 21;
  rest = rest * z + 2.0 / 19;
  rest = rest * z + 2.0 / 17;
  rest = rest * z + 2.0 / 15;
  rest = rest * z + 2.0 / 13;
  rest = rest * z + 2.0 / 11;
  rest = rest * z + 2.0 / 9;
  rest = rest * z + 2.0 / 7;
  rest = rest * z + 2.0 / 5;
  rest = rest * z + 2.0 / 3;
  rest = rest * z;
  const double value =
      n * 0x1.62e42fefa3800p-1 - ((half - (s * (half + rest) + n * 0x1.ef35793c76730p-45)) - f);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double finite = x == 0 ? -infinity : value;
  return x < infinity ? finite : x;  // infinities and NaNs are their own logarithms
}
inline float log_of(float x) { return float(log_of(double(x))); }

// |x|^p for a double that was a float: right to a float's last place. x^0 is 1.
inline double power_of(double x, double p) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double a = x < 0 ? -x : x;
  double e = p * log_of(a);
  e = e < -700 ? -700 : e > 700 ? 700 : e;  // beyond every float
  const double y = exp_of(e);
  const double edge = (a == 0) == (p > 0) ? 0 : infinity;
  return a == 0 || a == infinity ? edge : y;
}

// x[i] = x[i]^p as C's pow, p not 0. Small whole exponents multiply; a float's other powers are vectorised
// in double precision, a double's are the C library's.
template <class A>
void power_run(A* __restrict x, Index n, double p) {
  if (p == 1) return;
  if (p == 2) {
    for (Index i = 0; i < n; ++i) x[i] = x[i] * x[i];
  } else if (p == 0.5) {
    for (Index i = 0; i < n; ++i) x[i] = __builtin_sqrt(x[i]);
  } else if (p == 3) {
    for (Index i = 0; i < n; ++i) x[i] = x[i] * x[i] * x[i];
  } else if (p == 4) {
    for (Index i = 0; i < n; ++i) x[i] = (x[i] * x[i]) * (x[i] * x[i]);
  } else if constexpr (sizeof(A) == 8) {
    for (Index i = 0; i < n; ++i) x[i] = __builtin_pow(x[i], p);
  } else {
    const bool whole = p == __builtin_floor(p);
    const double flip = whole ? (p * 0.5 == __builtin_floor(p * 0.5) ? 1 : -1) : __builtin_nan("");
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const double flip_infinite = whole ? flip : 1;  // (-inf)^p is inf where p is not whole
    for (Index i = 0; i < n; ++i) {
      const double v = x[i], y = power_of(v, p);
      const double sign = v == -infinity ? flip_infinite : v < 0 ? flip : 1;
      x[i] = A(v == v ? y * sign : v);
    }
  }
}

// x[i] = sign(x[i]) |x[i]|^p.
template <class A>
void signed_power_run(A* __restrict x, Index n, double p) {
  A sign[256];
  for (Index i = 0; i < n; i += 256, x += 256) {
    const Index m = n - i < 256 ? n - i : 256;
    for (Index j = 0; j < m; ++j) {
      sign[j] = x[j] < 0 ? A(-1) : A(1);
      x[j] *= sign[j];
    }
    power_run(x, m, p);
    for (Index j = 0; j < m; ++j) x[j] *= sign[j];
  }
}
