// The loops of the norms, compiled once per instruction set as kernels.inl is.

#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "../norm/kernels.hpp"

namespace infinitypool::INFINITYPOOL_ISA {

#include "prelude.inl"

namespace norm {

// 64 bytes of accumulators, added lane by lane whatever the instruction set: sums have the same bits on all.
template <class A>
inline constexpr int kLanes = 64 / int(sizeof(A));
#if defined(__GNUC__)
template <class A>
struct PackOf;
template <>
struct PackOf<float> { typedef float type __attribute__((vector_size(64), aligned(4), may_alias)); };
template <>
struct PackOf<double> { typedef double type __attribute__((vector_size(64), aligned(8), may_alias)); };
template <class A>
using Pack = typename PackOf<A>::type;
template <class A>
inline Pack<A> spread(A x) { return x - Pack<A>{}; }
#else
template <class A>
struct Pack {
  A lane[kLanes<A>] = {};
  A operator[](int i) const { return lane[i]; }
#define INFINITYPOOL_LANEWISE(op)                                         \
  friend Pack operator op(const Pack& x, const Pack& y) {                 \
    Pack z;                                                               \
    for (int i = 0; i < kLanes<A>; ++i) z.lane[i] = x.lane[i] op y.lane[i]; \
    return z;                                                             \
  }                                                                       \
  Pack& operator op##=(const Pack& y) { return *this = *this op y; }
  INFINITYPOOL_LANEWISE(+)
  INFINITYPOOL_LANEWISE(-)
  INFINITYPOOL_LANEWISE(*)
};
template <class A>
inline Pack<A> spread(A x) {
  Pack<A> p;
  for (A& lane : p.lane) lane = x;
  return p;
}
#endif
template <class A>
inline Pack<A> pack(const A* x) {
  Pack<A> p;
  std::memcpy(&p, x, sizeof p);
  return p;
}
template <class A>
inline void unpack(A* x, Pack<A> p) { std::memcpy(x, &p, sizeof p); }
// The first n of a pack, and `rest` in the others.
template <class A>
inline Pack<A> pack(const A* x, Index n, A rest) {
#if defined(__AVX512F__)
  const auto mask = (1u << n) - 1;
  if constexpr (kLanes<A> == 16) return Pack<A>(_mm512_mask_loadu_ps(_mm512_set1_ps(rest), __mmask16(mask), x));
  else return Pack<A>(_mm512_mask_loadu_pd(_mm512_set1_pd(rest), __mmask8(mask), x));
#else
  A lane[kLanes<A>];
  for (A& l : lane) l = rest;
  std::memcpy(lane, x, std::size_t(n) * sizeof(A));
  return pack(lane);
#endif
}
template <class A>
inline double total(Pack<A> p) {
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)  // in registers
  typedef float F8 __attribute__((vector_size(32)));
  typedef double D8 __attribute__((vector_size(64)));
  D8 d;
  if constexpr (kLanes<A> == 16) {
    const F8 low = __builtin_shufflevector(p, p, 0, 1, 2, 3, 4, 5, 6, 7);
    const F8 high = __builtin_shufflevector(p, p, 8, 9, 10, 11, 12, 13, 14, 15);
    d = __builtin_convertvector(low, D8) + __builtin_convertvector(high, D8);
  } else {
    d = p;
  }
  const auto q = __builtin_shufflevector(d, d, 0, 1, 2, 3) + __builtin_shufflevector(d, d, 4, 5, 6, 7);
  const auto r = __builtin_shufflevector(q, q, 0, 1) + __builtin_shufflevector(q, q, 2, 3);
  return r[0] + r[1];
#else
  double lane[8];
  for (int i = 0; i < 8; ++i) {
    lane[i] = p[i];
    if constexpr (kLanes<A> == 16) lane[i] += double(p[i + 8]);
  }
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
#endif
}

// Calls add(sum, other, read) for every pack of n elements in a fixed order; `read(x, rest)` reads from x the pack of
// that place, filled up with `rest`. Gives the totals of both.
template <class A, class Add>
inline void sum_packs(Index n, double* sums, const Add& add) {
  constexpr Index w = kLanes<A>;
  Pack<A> s0{}, s1{}, s2{}, s3{}, t0{}, t1{}, t2{}, t3{};
  const auto whole = [](Index at) { return [at](const A* x, A) { return pack(x + at); }; };
  Index i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    add(s0, t0, whole(i));
    add(s1, t1, whole(i + w));
    add(s2, t2, whole(i + 2 * w));
    add(s3, t3, whole(i + 3 * w));
  }
  for (; i + w <= n; i += w) add(s0, t0, whole(i));
  if (i < n) add(s1, t1, [i, n](const A* x, A rest) { return pack(x + i, n - i, rest); });
  sums[0] = total<A>((s0 + s1) + (s2 + s3));
  sums[1] = total<A>((t0 + t1) + (t2 + t3));
}

// Whether two numbers are neither infinite nor NaN.
inline bool finite(double a, double b) { return (a - a) + (b - b) == 0; }

// Deviations from a first mean are small, so their squares do not cancel, and their sum corrects that mean.
template <class A>
void moments(const void* x_, Index pitch, Index n, int rows, bool centered, double* mean, double* square) {
  const auto row = [=](int r) { return static_cast<const A*>(x_) + r * pitch; };
  const double count = double(n);
  double sums[kNormFew][2];
  A first[kNormFew] = {};
  if (centered) {
    for (int r = 0; r < rows; ++r)
      sum_packs<A>(n, sums[r], [x = row(r)](Pack<A>& sum, Pack<A>&, auto read) { sum += read(x, A(0)); });
    for (int r = 0; r < rows; ++r) first[r] = A(sums[r][0] / count);
    for (int r = 0; r < rows; ++r) {
      const Pack<A> center = spread(first[r]);
      sum_packs<A>(n, sums[r], [x = row(r), center, f = first[r]](Pack<A>& sum, Pack<A>& square, auto read) {
        const Pack<A> d = read(x, f) - center;
        sum += d;
        square += d * d;
      });
    }
  } else {
    for (int r = 0; r < rows; ++r)
      sum_packs<A>(n, sums[r], [x = row(r)](Pack<A>&, Pack<A>& square, auto read) {
        const Pack<A> v = read(x, A(0));
        square += v * v;
      });
  }
  for (int r = 0; r < rows; ++r) {
    const double off = centered ? sums[r][0] / count : 0;
    mean[r] = double(first[r]) + off;
    square[r] = sums[r][1] - (centered ? sums[r][0] * off : 0);
    if (sizeof(A) == 8 || finite(mean[r], square[r])) continue;
    // Beyond a float's range, or not finite in truth.
    const A* x = row(r);
    double m = 0, q = 0;
    for (Index i = 0; centered && i < n; ++i) m += double(x[i]);
    m /= count;
    for (Index i = 0; i < n; ++i) q += (double(x[i]) - m) * (double(x[i]) - m);
    mean[r] = m;
    square[r] = q;
  }
}

// kPacks packs of columns at once, so that their sums stay in registers.
template <int kPacks, class A, class Add>
inline void sum_rows(Index rows, Pack<A> (*sum)[kPacks], const Add& add) {
  for (Index r = 0; r < rows; ++r)
    for (int j = 0; j < kPacks; ++j) add(r, j, sum);
}

// Mean and squared deviations of some rows, as doubles.
template <int kPacks, class A>
inline void column_moments_of(const A* x, Index pitch, Index rows, bool centered, double* __restrict mean,
                              double* __restrict square) {
  constexpr int w = kLanes<A>, n = kPacks * w;
  Pack<A> center[kPacks] = {};
  const Pack<A> share = spread(A(1) / A(rows));
  if (centered) {
    Pack<A> sum[1][kPacks] = {};
    sum_rows<kPacks, A>(rows, sum, [=](Index r, int j, auto* s) { s[0][j] += pack(x + r * pitch + j * w); });
    for (int j = 0; j < kPacks; ++j) center[j] = sum[0][j] * share;
  }
  Pack<A> sum[2][kPacks] = {};
  sum_rows<kPacks, A>(rows, sum, [=](Index r, int j, auto* s) {
    const Pack<A> d = pack(x + r * pitch + j * w) - center[j];
    s[0][j] += d;
    s[1][j] += d * d;
  });
  A first[n], off[n], squares[n];
  for (int j = 0; j < kPacks; ++j) {
    unpack(first + j * w, center[j]);
    unpack(off + j * w, sum[0][j]);
    unpack(squares + j * w, sum[1][j]);
  }
  const double count = double(rows);
  double poison = 0;
  for (int i = 0; i < n; ++i) {
    const double d = off[i], o = centered ? d / count : 0;
    mean[i] = double(first[i]) + o;
    square[i] = double(squares[i]) - d * o;
    poison += (square[i] - square[i]) * 0;
  }
  if (sizeof(A) == 8 || poison == 0) return;
  for (int i = 0; i < n; ++i) {  // beyond a float's range, or not finite in truth
    if (square[i] - square[i] == 0) continue;
    double m = 0, q = 0;
    for (Index r = 0; centered && r < rows; ++r) m += double(x[r * pitch + i]);
    m /= count;
    for (Index r = 0; r < rows; ++r) q += (double(x[r * pitch + i]) - m) * (double(x[r * pitch + i]) - m);
    mean[i] = m, square[i] = q;
  }
}

// Two estimates of mean and squared deviations become one: Chan, Golub and LeVeque, 1979.
void merge_rows(double* __restrict mean, double* __restrict square, const double* __restrict more_mean,
                const double* __restrict more_square, Index n, bool centered, double before, double rows) {
  const double share = rows / (before + rows), weight = before * share;
  if (!centered) {
    for (Index i = 0; i < n; ++i) square[i] += more_square[i];
    return;
  }
  for (Index i = 0; i < n; ++i) {
    const double d = more_mean[i] - mean[i];
    mean[i] += d * share;
    square[i] += more_square[i] + d * d * weight;
  }
}

template <int kPacks, class A>
inline void column_block(const A* x, Index pitch, Index rows, bool centered, Index before, double* mean,
                         double* square, Index n) {
  double part_mean[kPacks * kLanes<A>], part_square[kPacks * kLanes<A>];
  column_moments_of<kPacks>(x, pitch, rows, centered, part_mean, part_square);
  if (before) return merge_rows(mean, square, part_mean, part_square, n, centered, double(before), double(rows));
  std::memcpy(mean, part_mean, std::size_t(n) * sizeof(double));
  std::memcpy(square, part_square, std::size_t(n) * sizeof(double));
}

// Columns that do not fill a pack, padded with zeros row by row.
template <class A>
struct Narrow {
  static constexpr Index kRows = 128;
  A x[kRows * kLanes<A>];
  void take(const A* from, Index pitch, Index rows, Index columns) {
    for (Index r = 0; r < rows; ++r) {
      for (Index i = columns; i < kLanes<A>; ++i) x[r * kLanes<A> + i] = 0;
      for (Index i = 0; i < columns; ++i) x[r * kLanes<A> + i] = from[r * pitch + i];
    }
  }
};

template <class A>
void column_moments(const void* x_, Index pitch, Tile tile, bool centered, Index before, double* mean,
                    double* square) {
  auto* x = static_cast<const A*>(x_);
  constexpr int w = kLanes<A>;
  Index i = 0;
  for (; i + 4 * w <= tile.columns; i += 4 * w)
    column_block<4>(x + i, pitch, tile.rows, centered, before, mean + i, square + i, 4 * w);
  for (; i + w <= tile.columns; i += w)
    column_block<1>(x + i, pitch, tile.rows, centered, before, mean + i, square + i, w);
  if (i == tile.columns) return;
  Narrow<A> rest;
  for (Index r = 0; r < tile.rows; r += rest.kRows) {
    const Index rows = tile.rows - r < rest.kRows ? tile.rows - r : rest.kRows;
    rest.take(x + r * pitch + i, pitch, rows, tile.columns - i);
    column_block<1>(rest.x, w, rows, centered, before + r, mean + i, square + i, tile.columns - i);
  }
}

// Columns of as many rows each, as one.
void merge_span(const double* mean, const double* square, Index n, bool centered, double rows, double* to_mean,
                double* to_square) {
  double sums[2];
  sum_packs<double>(n, sums, [=](Pack<double>& s, Pack<double>&, auto read) { s += read(square, 0.0); });
  *to_mean = 0;
  *to_square = sums[0];
  if (!centered) return;
  // Around one of them, so that equal means stay what they are.
  const double first = mean[0];
  const Pack<double> center = spread(first);
  sum_packs<double>(n, sums, [=](Pack<double>& s, Pack<double>& q, auto read) {
    const Pack<double> d = read(mean, first) - center;
    s += d;
    q += d * d;
  });
  const double off = sums[0] / double(n);
  *to_mean = first + off;
  *to_square += rows * (sums[1] - sums[0] * off);
}

// ---------------------------------------------------------------- forward

template <class A>
void add(void* x_, const void* y_, Index n) {
  auto* x = static_cast<A*>(x_);
  auto* y = static_cast<const A*>(y_);
  INFINITYPOOL_INDEPENDENT
  for (Index i = 0; i < n; ++i) x[i] += y[i];
}

template <class A>
void affine(void* y_, const void* x_, Index n, double center, double scale, double shift) {
  auto* y = static_cast<A*>(y_);
  auto* x = static_cast<const A*>(x_);
  const A c = A(center), s = A(scale), t = A(shift);
  INFINITYPOOL_INDEPENDENT
  for (Index i = 0; i < n; ++i) y[i] = (x[i] - c) * s + t;
}

template <class A>
void affine_columns(void* y_, Index y_pitch, const void* x_, Index x_pitch, Tile tile, const void* center,
                    const void* scale, const void* shift) {
  auto* c = static_cast<const A*>(center);
  auto* s = static_cast<const A*>(scale);
  auto* t = static_cast<const A*>(shift);
  for (Index r = 0; r < tile.rows; ++r) {
    auto* y = static_cast<A*>(y_) + r * y_pitch;
    auto* x = static_cast<const A*>(x_) + r * x_pitch;
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < tile.columns; ++i) y[i] = (x[i] - c[i]) * s[i] + t[i];
  }
}

template <class A>
void affine_along(void* y_, const void* x_, Index n, double center, double scale, double shift, const void* weight,
                  const void* bias) {
  auto* y = static_cast<A*>(y_);
  auto* x = static_cast<const A*>(x_);
  auto* w = static_cast<const A*>(weight);
  auto* b = static_cast<const A*>(bias);
  const A c = A(center), s = A(scale), t = A(shift);
  if (w && b) {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) y[i] = ((x[i] - c) * s + t) * w[i] + b[i];
  } else if (w) {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) y[i] = ((x[i] - c) * s + t) * w[i];
  } else {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) y[i] = ((x[i] - c) * s + t) + b[i];
  }
}

// ---------------------------------------------------------------- activations

template <class A>
inline A logistic(A x) {
  const A e = exp_of(x > 0 ? -x : x);
  const A small = e / (1 + e);
  return x > 0 ? 1 - small : small;
}

// The probability that a normal variable is below x, and its density there.
template <class A>
struct Normal {
  A below, density;
};
inline Normal<double> normal(double x) {
  return {0.5 * __builtin_erfc(-x * 0.70710678118654752440), exp_of(-0.5 * (x * x)) * 0.39894228040143267794};
}
// Mills' ratio, the tail over the density, as a polynomial in 1 / (1 + 0.3 |x|): a minimax fit for |x| <= 14, within
// 6e-8 of it.
inline Normal<float> normal(float x) {
  const float t = 1 / (1 + 0.3f * (x < 0 ? -x : x));
  float ratio = 0.09620359f;
  ratio = ratio * t + -0.4240527f;
  ratio = ratio * t + 0.57319736f;
  ratio = ratio * t + -0.19180714f;
  ratio = ratio * t + 0.35730532f;
  ratio = ratio * t + 0.23732787f;
  ratio = ratio * t + 0.30561095f;
  ratio = ratio * t + 0.29951096f;
  ratio = ratio * t + 1.7982762e-05f;
  const float density = exp_of(-0.5f * (x * x)) * 0.39894228f, tail = density * ratio;
  return {x > 0 ? 1 - tail : x <= 0 ? tail : x, density};
}

template <class A>
inline A activated(A z, Activation activation, A slope) {
  if (activation == Activation::relu) return z <= 0 ? A(0) : z;  // a NaN stays
  if (activation == Activation::leaky_relu) return z > 0 ? z : z * slope;
  if (activation == Activation::silu) return z * logistic(z);
  return z * normal(z).below;
}
template <class A>
inline A derivative(A z, Activation activation, A slope) {
  if (activation == Activation::relu) return z <= 0 ? A(0) : A(1);
  if (activation == Activation::leaky_relu) return z > 0 ? A(1) : slope;
  if (activation == Activation::silu) {
    const A s = logistic(z);
    return s * (1 + z * (1 - s));
  }
  const Normal<A> p = normal(z);
  return p.below + z * p.density;
}

template <class A>
void activate(void* y_, Index n, Activation activation, double slope) {
  auto* y = static_cast<A*>(y_);
  const A k = A(slope);
  const auto each = [=](auto kind) {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) y[i] = activated(y[i], kind(), k);
  };
  switch (activation) {
    case Activation::none: return;
    case Activation::relu: return each([] { return Activation::relu; });
    case Activation::leaky_relu: return each([] { return Activation::leaky_relu; });
    case Activation::silu: return each([] { return Activation::silu; });
    case Activation::gelu: return each([] { return Activation::gelu; });
  }
}

template <class A>
void deactivate(void* g_, const void* z_, Index n, Activation activation, double slope) {
  auto* g = static_cast<A*>(g_);
  auto* z = static_cast<const A*>(z_);
  const A k = A(slope);
  const auto each = [=](auto kind) {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) g[i] = g[i] * derivative(z[i], kind(), k);
  };
  switch (activation) {
    case Activation::none: return;
    case Activation::relu: return each([] { return Activation::relu; });
    case Activation::leaky_relu: return each([] { return Activation::leaky_relu; });
    case Activation::silu: return each([] { return Activation::silu; });
    case Activation::gelu: return each([] { return Activation::gelu; });
  }
}

// ---------------------------------------------------------------- backward

template <class A>
void sums(const void* g_, const void* x_, Index n, double center, double* sum) {
  auto* g = static_cast<const A*>(g_);
  auto* x = static_cast<const A*>(x_);
  const A first = A(center);
  const Pack<A> c = spread(first);
  sum_packs<A>(n, sum, [=](Pack<A>& of_g, Pack<A>& of_gx, auto read) {
    const Pack<A> v = read(g, A(0));
    of_g += v;
    of_gx += v * (read(x, first) - c);
  });
}

template <class A>
void sums_along(const void* g_, const void* x_, Index n, double center, const void* weight, double* sum) {
  auto* g = static_cast<const A*>(g_);
  auto* x = static_cast<const A*>(x_);
  auto* w = static_cast<const A*>(weight);
  const A first = A(center);
  const Pack<A> c = spread(first);
  sum_packs<A>(n, sum, [=](Pack<A>& of_g, Pack<A>& of_gx, auto read) {
    const Pack<A> v = read(g, A(0)) * read(w, A(0));
    of_g += v;
    of_gx += v * (read(x, first) - c);
  });
}

template <int kPacks, class A>
inline void column_sums_of(const A* g, Index g_pitch, const A* x, Index x_pitch, Index rows, const A* center,
                           double* __restrict sum_g, double* __restrict sum_gx, Index n) {
  constexpr int w = kLanes<A>;
  Pack<A> c[kPacks];
  for (int j = 0; j < kPacks; ++j) c[j] = pack(center + j * w);
  Pack<A> sum[2][kPacks] = {};
  sum_rows<kPacks, A>(rows, sum, [=](Index r, int j, auto* s) {
    const Pack<A> v = pack(g + r * g_pitch + j * w);
    s[0][j] += v;
    s[1][j] += v * (pack(x + r * x_pitch + j * w) - c[j]);
  });
  A part[2][kPacks * w];
  for (int k = 0; k < 2; ++k)
    for (int j = 0; j < kPacks; ++j) unpack(part[k] + j * w, sum[k][j]);
  for (Index i = 0; i < n; ++i) sum_g[i] += part[0][i];
  for (Index i = 0; i < n; ++i) sum_gx[i] += part[1][i];
}

template <class A>
void column_sums(const void* g_, Index g_pitch, const void* x_, Index x_pitch, Tile tile, const void* center_,
                 double* sum_g, double* sum_gx) {
  auto* g = static_cast<const A*>(g_);
  auto* x = static_cast<const A*>(x_);
  auto* center = static_cast<const A*>(center_);
  constexpr int w = kLanes<A>;
  Index i = 0;
  for (; i + 4 * w <= tile.columns; i += 4 * w)
    column_sums_of<4>(g + i, g_pitch, x + i, x_pitch, tile.rows, center + i, sum_g + i, sum_gx + i, 4 * w);
  for (; i + w <= tile.columns; i += w)
    column_sums_of<1>(g + i, g_pitch, x + i, x_pitch, tile.rows, center + i, sum_g + i, sum_gx + i, w);
  if (i == tile.columns) return;
  const Index columns = tile.columns - i;
  Narrow<A> more_g, more_x;
  A more_center[w] = {};
  std::memcpy(more_center, center + i, std::size_t(columns) * sizeof(A));
  for (Index r = 0; r < tile.rows; r += more_g.kRows) {
    const Index rows = tile.rows - r < more_g.kRows ? tile.rows - r : more_g.kRows;
    more_g.take(g + r * g_pitch + i, g_pitch, rows, columns);
    more_x.take(x + r * x_pitch + i, x_pitch, rows, columns);
    column_sums_of<1>(more_g.x, w, more_x.x, w, rows, more_center, sum_g + i, sum_gx + i, columns);
  }
}

template <int kRows, class A>
inline void add_rows(A* w, A* b, const NormRow* rows, Index n) {
  const A* g[kRows];
  const A* x[kRows];
  A c[kRows], s[kRows], t[kRows];
  for (int r = 0; r < kRows; ++r) {
    g[r] = static_cast<const A*>(rows[r].g), x[r] = static_cast<const A*>(rows[r].x);
    c[r] = A(rows[r].center), s[r] = A(rows[r].scale), t[r] = A(rows[r].shift);
  }
  INFINITYPOOL_INDEPENDENT
  for (Index i = 0; i < n; ++i) {
    A sum_w = w[i], sum_b = b[i];
    for (int r = 0; r < kRows; ++r) {
      sum_w += g[r][i] * ((x[r][i] - c[r]) * s[r] + t[r]);
      sum_b += g[r][i];
    }
    w[i] = sum_w, b[i] = sum_b;
  }
}
template <class A>
void parameters_along(void* weight, void* bias, const NormRow* rows, int count, Index n) {
  auto* w = static_cast<A*>(weight);
  auto* b = static_cast<A*>(bias);
  if (count == kNormRows) return add_rows<kNormRows>(w, b, rows, n);
  for (int r = 0; r < count; ++r) add_rows<1>(w, b, rows + r, n);
}

template <class A>
void flush(double* dst, void* src_, Index n, bool first) {
  auto* src = static_cast<A*>(src_);
  if (first) {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) dst[i] = double(src[i]);
  } else {
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < n; ++i) dst[i] += double(src[i]);
  }
  std::memset(src, 0, std::size_t(n) * sizeof(A));
}

template <class A>
void gradient(void* y_, const void* g_, const void* x_, Index n, double a_, double b_, double center, double d_) {
  auto* y = static_cast<A*>(y_);
  auto* g = static_cast<const A*>(g_);
  auto* x = static_cast<const A*>(x_);
  const A a = A(a_), b = A(b_), c = A(center), d = A(d_);
  INFINITYPOOL_INDEPENDENT
  for (Index i = 0; i < n; ++i) y[i] = a * g[i] - (b * (x[i] - c) + d);
}

template <class A>
void gradient_columns(void* y_, Index y_pitch, const void* g_, Index g_pitch, const void* x_, Index x_pitch, Tile tile,
                      const void* a_, const void* b_, const void* center, const void* d_) {
  auto* a = static_cast<const A*>(a_);
  auto* b = static_cast<const A*>(b_);
  auto* c = static_cast<const A*>(center);
  auto* d = static_cast<const A*>(d_);
  for (Index r = 0; r < tile.rows; ++r) {
    auto* y = static_cast<A*>(y_) + r * y_pitch;
    auto* g = static_cast<const A*>(g_) + r * g_pitch;
    auto* x = static_cast<const A*>(x_) + r * x_pitch;
    INFINITYPOOL_INDEPENDENT
    for (Index i = 0; i < tile.columns; ++i) y[i] = a[i] * g[i] - (b[i] * (x[i] - c[i]) + d[i]);
  }
}

template <class A>
void gradient_along(void* y_, const void* g_, const void* x_, Index n, double a_, double b_, double center, double d_,
                    const void* weight) {
  auto* y = static_cast<A*>(y_);
  auto* g = static_cast<const A*>(g_);
  auto* x = static_cast<const A*>(x_);
  auto* w = static_cast<const A*>(weight);
  const A a = A(a_), b = A(b_), c = A(center), d = A(d_);
  INFINITYPOOL_INDEPENDENT
  for (Index i = 0; i < n; ++i) y[i] = a * (w[i] * g[i]) - (b * (x[i] - c) + d);
}

// ---------------------------------------------------------------- the table

template <class A, class T>
void load_any(void* dst, const void* src, Index n, Index step) {
  load_run(static_cast<A*>(dst), static_cast<const T*>(src), n, step);
}
template <class A, class T>
void store_any(void* dst, const void* src, Index n) {
  convert_run(static_cast<T*>(dst), static_cast<const A*>(src), n);
}

template <class A>
constexpr NormKernels kernels() {
  NormKernels k;
  k.size = sizeof(A);
  k.load[0] = load_any<A, double>;
  k.load[1] = load_any<A, float>;
  k.load[2] = load_any<A, float16_t>;
  k.load[3] = load_any<A, bfloat16_t>;
  k.store[0] = store_any<A, double>;
  k.store[1] = store_any<A, float>;
  k.store[2] = store_any<A, float16_t>;
  k.store[3] = store_any<A, bfloat16_t>;
  k.add = add<A>;
  k.moments = moments<A>;
  k.column_moments = column_moments<A>;
  k.merge_rows = merge_rows;
  k.merge_span = merge_span;
  k.affine = affine<A>;
  k.affine_columns = affine_columns<A>;
  k.affine_along = affine_along<A>;
  k.activate = activate<A>;
  k.deactivate = deactivate<A>;
  k.sums = sums<A>;
  k.column_sums = column_sums<A>;
  k.sums_along = sums_along<A>;
  k.parameters_along = parameters_along<A>;
  k.flush = flush<A>;
  k.gradient = gradient<A>;
  k.gradient_columns = gradient_columns<A>;
  k.gradient_along = gradient_along<A>;
  return k;
}

}  // namespace norm
}  // namespace infinitypool::INFINITYPOOL_ISA

namespace infinitypool {
extern const NormTable INFINITYPOOL_TABLE(norm);
const NormTable INFINITYPOOL_TABLE(norm) = {
    INFINITYPOOL_ISA_NAME, INFINITYPOOL_ISA::norm::kernels<float>(), INFINITYPOOL_ISA::norm::kernels<double>()};
}  // namespace infinitypool
