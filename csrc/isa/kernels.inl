// Every loop of the core, compiled once per instruction set. All code lives in that set's own
// namespace and uses no function template from the standard library: the linker could otherwise
// keep one set's copy of a shared template for all of them.

#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "../kernels.hpp"

namespace infinitypool::INFINITYPOOL_ISA {

#include "prelude.inl"

namespace reducers {
#include "reducers.inc"  // every header of csrc/reducers, found by CMake
}

// ---------------------------------------------------------------- loops

struct no_place { std::uint32_t unused; };

// What a comparison of accumulators fills without changing width.
template <class A>
using lane = std::conditional_t<sizeof(A) == 8, std::uint64_t,
             std::conditional_t<sizeof(A) == 4, std::uint32_t, std::conditional_t<sizeof(A) == 2, std::uint16_t, std::uint8_t>>>;

template <class R, bool clean, class A>
inline A merged(A a, A b) {
  if constexpr (R::info.selects) return R::template replaces<clean>(a, b) ? b : a;
  else return R::add(a, b);
}

template <class R, class A, class P, bool clean = false>
struct Loops {
  static constexpr bool tracks = !std::is_same_v<P, no_place>;
  static constexpr bool counts = tracks && !R::info.selects;  // places are counts, and add up

  template <int count>
  struct Source {
    const A* value[count];
    const P* place[count];
    P shift[count];

    explicit Source(const Term* terms) {
      for (int j = 0; j < count; ++j) {
        value[j] = static_cast<const A*>(terms[j].value);
        place[j] = static_cast<const P*>(terms[j].place);
        shift[j] = P(terms[j].shift);
      }
    }
    void advance(Index n) {
      for (int j = 0; j < count; ++j) {
        value[j] += n;
        if constexpr (tracks) place[j] = place[j] ? place[j] + n : nullptr;
      }
    }
  };

  // Written out term by term: as a loop, compilers see branches and do not vectorise it.
  template <int j, bool fresh, int count>
  static void take(A& v, P& p, const Source<count>& from, Index at) {
    const A w = from.value[j][at];
    if constexpr (counts) {
      v = R::add(v, w);
      p += from.place[j][at];
    } else if constexpr (tracks) {
      const P q = fresh ? from.shift[j] : from.place[j][at] + from.shift[j];
      const bool taken = R::template replaces<clean>(v, w);
      v = taken ? w : v;
      p = taken ? q : p;
    } else {
      v = merged<R, clean>(v, w);
    }
  }

  // The usual strides are constants: compilers only vectorise those. 0 stands for any other.
  // Inputs are `fresh`: they have no places yet, and contribute their shift alone.
  template <int fixed, int count, bool fresh = false>
  static void merge_run(A* __restrict value, P* __restrict place, const Source<count> from, Index n, Index stride = fixed) {
    const Index s = fixed ? fixed : stride;
    if constexpr (tracks && !counts && !fresh)
      if (!from.place[0]) return merge_run<fixed, count, true>(value, place, from, n, stride);
    for (Index i = 0; i < n; ++i) {
      A v = from.value[0][i * s];
      P p{};
      if constexpr (counts) p = from.place[0][i * s];
      else if constexpr (tracks) p = fresh ? from.shift[0] : from.place[0][i * s] + from.shift[0];
      if constexpr (count > 1) take<1, fresh>(v, p, from, i * s);
      if constexpr (count > 2) take<2, fresh>(v, p, from, i * s);
      if constexpr (count > 3) take<3, fresh>(v, p, from, i * s);
      if constexpr (count > 4) take<4, fresh>(v, p, from, i * s);
      value[i] = v;
      if constexpr (tracks) place[i] = p;
    }
  }

  template <int count>
  static void merge_columns(Line dst, const Term* terms, Index n, Index stride, Index inner) {
    auto* value = static_cast<A*>(dst.value);
    auto* place = static_cast<P*>(dst.place);
    Source<count> from(terms);
    if (stride == 1) return merge_run<1>(value, place, from, n * inner);
    if (inner == 1 && stride == 2) return merge_run<2>(value, place, from, n);
    if (inner == 1) return merge_run<0>(value, place, from, n, stride);
    for (Index o = 0; o < n; ++o) {
      merge_run<1>(value, place, from, inner);
      from.advance(stride * inner);
      value += inner;
      if constexpr (tracks) place += inner;
    }
  }

  static void merge_strided(Line dst, const Term* terms, int count, Index n, Index stride, Index inner) {
    using Run = void (*)(Line, const Term*, Index, Index, Index);
    static constexpr Run runs[kTerms] = {merge_columns<1>, merge_columns<2>, merge_columns<3>, merge_columns<4>,
                                         merge_columns<5>};
    runs[count - 1](dst, terms, n, stride, inner);
  }

  static void merge(Line dst, const Term* terms, int count, Index n) { merge_strided(dst, terms, count, n, 1, 1); }

  // Which of two winners, found apart, comes first in the order of their places?
  static bool later_wins(A a, P p, A b, P q) {
    if (q < p) return !later_wins(b, q, a, p);
    return R::template replaces<clean>(a, b);
  }

  // One window of contiguous elements, in kLanes windows side by side: their number is part of a sum's
  // definition, and the same for every instruction set.
  static constexpr Index kLanes = 64 / sizeof(A) * 2;
  static void fold_run(Line dst, Term src, Index count, std::uint64_t place_step) {
    Source<1> from(&src);
    A lanes[kLanes] = {};
    P places[kLanes] = {};
    const Index wide = count / kLanes * kLanes;
    const Index used = wide ? kLanes : count;
    for (Index j = 0; j < used; ++j) {
      lanes[j] = from.value[0][j];
      if constexpr (counts) places[j] = from.place[0][j];
      else if constexpr (tracks) places[j] = (from.place[0] ? from.place[0][j] : P(0)) + from.shift[0] + P(j * place_step);
    }
    for (Index k = used; k < count; k += kLanes) {
      const Index m = k + kLanes <= count ? kLanes : count - k;
      const auto step = [&](Index j) {
        const A v = from.value[0][k + j];
        if constexpr (counts) {
          lanes[j] = R::add(lanes[j], v);
          places[j] += from.place[0][k + j];
        } else if constexpr (tracks) {
          const P q = (from.place[0] ? from.place[0][k + j] : P(0)) + from.shift[0] + P((k + j) * place_step);
          const bool taken = R::template replaces<clean>(lanes[j], v);
          lanes[j] = taken ? v : lanes[j];
          places[j] = taken ? q : places[j];
        } else {
          lanes[j] = merged<R, clean>(lanes[j], v);
        }
      };
      if (m == kLanes) for (Index j = 0; j < kLanes; ++j) step(j);
      else for (Index j = 0; j < m; ++j) step(j);
    }
    for (Index n = used; n > 1;) {
      const Index half = (n + 1) / 2;
      for (Index j = 0; j + half < n; ++j) {
        if constexpr (counts) {
          lanes[j] = R::add(lanes[j], lanes[j + half]);
          places[j] += places[j + half];
        } else if constexpr (tracks) {
          const bool taken = later_wins(lanes[j], places[j], lanes[j + half], places[j + half]);
          lanes[j] = taken ? lanes[j + half] : lanes[j];
          places[j] = taken ? places[j + half] : places[j];
        } else {
          lanes[j] = merged<R, clean>(lanes[j], lanes[j + half]);
        }
      }
      n = half;
    }
    *static_cast<A*>(dst.value) = lanes[0];
    if constexpr (tracks) *static_cast<P*>(dst.place) = places[0];
  }

  static void fold(Line dst, Term src, Index count, Index pitch, Index inner, std::uint64_t place_step) {
    if (inner == 1 && pitch == 1) return fold_run(dst, src, count, place_step);
    auto* value = static_cast<A*>(dst.value);
    auto* place = static_cast<P*>(dst.place);
    Source<1> from(&src);
    merge_run<1>(value, place, from, inner);
    for (Index k = 1; k < count; ++k) {
      from.advance(pitch);
      if constexpr (tracks) from.shift[0] += P(place_step);
      const P* given = nullptr;
      if constexpr (tracks) given = from.place[0];
      const P shift = tracks ? from.shift[0] : P{};
      const A* __restrict w = from.value[0];
      for (Index i = 0; i < inner; ++i) {
        const A v = w[i];
        if constexpr (counts) {
          value[i] = R::add(value[i], v);
          place[i] += given[i];
        } else if constexpr (tracks) {
          const bool taken = R::template replaces<clean>(value[i], v);
          value[i] = taken ? v : value[i];
          place[i] = taken ? (given ? P(given[i] + shift) : shift) : place[i];
        } else {
          value[i] = merged<R, clean>(value[i], v);
        }
      }
    }
  }
};

template <class R, class A, class P>
void fold_each(Line dst, Term line, const Window* windows, Index n, Index step, Index inner, std::uint64_t place_step) {
  using L = Loops<R, A, P>;
  auto* value = static_cast<A*>(dst.value);
  auto* place = static_cast<P*>(dst.place);
  auto* x = static_cast<const A*>(line.value);
  auto* q = static_cast<const P*>(line.place);
  for (Index o = 0; o < n; ++o, value += inner) {
    const Window& w = windows[o];
    const P first = P(std::uint64_t(w.tap) * place_step);
    if (inner > 1 || w.count == 0) {
      Line to{value, nullptr};
      Term taps{x + w.first * inner, nullptr, std::uint64_t(w.tap) * place_step};
      if constexpr (L::tracks) to.place = place + o * inner;
      if constexpr (L::counts) taps.place = q + w.first * inner;
      if (w.count) L::fold(to, taps, w.count, step * inner, inner, place_step);
      continue;
    }
    A v = x[w.first];
    P p{};
    if constexpr (L::counts) p = q[w.first];
    else if constexpr (L::tracks) p = first;
    for (Index k = 1; k < w.count; ++k) {
      const A u = x[w.first + k * step];
      if constexpr (L::counts) {
        v = R::add(v, u);
        p += q[w.first + k * step];
      } else if constexpr (L::tracks) {
        const bool taken = R::template replaces<false>(v, u);
        v = taken ? u : v;
        p = taken ? P(first + P(k * place_step)) : p;
      } else {
        v = merged<R, false>(v, u);
      }
    }
    *value = v;
    if constexpr (L::tracks) place[o] = p;
  }
}

template <class R>
concept lifting = requires(float* x, const Parameters& p) { R::lift(x, Index(1), p); };

template <class P>
inline P put_place(std::uint64_t x) {
  if constexpr (std::is_same_v<P, no_place>) return P{};
  else return P(x);
}

template <class R, class In, class A, class P>
void admit(Line run, const std::uint8_t* mask, bool omit, Index n, const Parameters& p) {
  auto* __restrict value = static_cast<A*>(run.value);
  if (!mask && !omit) {
    if constexpr (lifting<R>) R::lift(value, n, p);
    return;
  }
  const A identity = A(R::template identity<std::conditional_t<is_half<In>, float, In>>);
  auto* __restrict place = static_cast<P*>(run.place);
  const auto run_all = [&](auto takes_part) {
    if constexpr (lifting<R>) {
      constexpr Index kPiece = 256;
      lane<A> part[kPiece];
      for (Index i = 0; i < n; i += kPiece) {
        const Index m = n - i < kPiece ? n - i : kPiece;
        for (Index j = 0; j < m; ++j) part[j] = takes_part(i + j);
        R::lift(value + i, m, p);
        for (Index j = 0; j < m; ++j) value[i + j] = part[j] ? value[i + j] : identity;
        if (place) for (Index j = 0; j < m; ++j) place[i + j] = put_place<P>(part[j]);
      }
    } else if (place) {
      for (Index i = 0; i < n; ++i) {
        const bool part = takes_part(i);
        value[i] = part ? value[i] : identity;
        place[i] = put_place<P>(part);
      }
    } else {
      for (Index i = 0; i < n; ++i) value[i] = takes_part(i) ? value[i] : identity;
    }
  };
  if (!mask) run_all([&](Index i) { return !is_nan(value[i]); });
  else if (!omit) run_all([&](Index i) { return mask[i] != 0; });
  else run_all([&](Index i) { return bool(mask[i] != 0) & !is_nan(value[i]); });
}

// The identity is the input type's: where it is the result, it has to fit the output.
template <class R, class In, class A, class P>
void fill(Line dst, Index n) {
  const A identity = A(R::template identity<std::conditional_t<is_half<In>, float, In>>);
  auto* value = static_cast<A*>(dst.value);
  for (Index i = 0; i < n; ++i) value[i] = identity;
  if constexpr (!std::is_same_v<P, no_place>) {
    auto* place = static_cast<P*>(dst.place);
    if (place) for (Index i = 0; i < n; ++i) place[i] = 0;
  }
}

// x / d and x * (1 / d) round alike where d is a power of two, and a product is much quicker.
inline bool halves(double d) {
  return d >= 1 && d <= 0x1p100 && (bits_as<std::uint64_t>(d) & 0xfffffffffffffu) == 0;
}

template <class A>
void divide_in_place(A* x, Index n, double divisor) {
  if (halves(divisor)) {
    const A factor = A(1 / divisor);
    for (Index i = 0; i < n; ++i) x[i] *= factor;
  } else {
    const A d = A(divisor);
    for (Index i = 0; i < n; ++i) x[i] /= d;
  }
}

template <class In, class A>
void load_divided(void* dst_, Index dst_pitch, const void* src_, Runs r, Divisor by) {
  auto* dst = static_cast<A*>(dst_);
  auto* src = static_cast<const In*>(src_);
  if (r.inner > 1) {
    for (Index o = 0; o < r.columns; ++o, dst += dst_pitch, src += r.pitch) {
      load_run(dst, src, r.inner, r.inner_stride);
      divide_in_place(dst, r.inner, by.column ? by.column[o] * by.scale : by.scale);
    }
    return;
  }
  A part[256];  // divided in vectors, then spread
  for (Index o = 0; o < r.columns; o += 256) {
    const Index n = r.columns - o < 256 ? r.columns - o : 256;
    load_run(part, src + o * r.pitch, n, r.pitch);
    if (by.column) {
      for (Index i = 0; i < n; ++i) part[i] /= A(by.column[o + i] * by.scale);
    } else {
      divide_in_place(part, n, by.scale);
    }
    if (dst_pitch == 1) std::memcpy(dst + o, part, n * sizeof(A));
    else if (dst_pitch == 2) for (Index i = 0; i < n; ++i) dst[2 * (o + i)] = part[i];
    else for (Index i = 0; i < n; ++i) dst[(o + i) * dst_pitch] = part[i];
  }
}

// sum / divisor, in the rounding that the output's type asks for.
template <class Out, class A>
inline Out quotient(A sum, double divisor, bool truncate) {
  if constexpr (std::is_floating_point_v<A>) {
    return convert<Out>(A(sum / A(divisor)));
  } else if constexpr (sizeof(A) == 4) {
    // |sum| < 2^31: the quotient's distance from a tie or an integer exceeds a double's rounding.
    const double q = double(sum) / (divisor == 0 ? 1.0 : divisor);
    constexpr double shift = 0x1.8p52;  // adding and taking it away rounds to nearest, ties to even
    const double nearest = (q + shift) - shift;
    return Out(std::int32_t(truncate ? q : nearest));
  } else {
    if (divisor == 0) return Out(0);
    const bool flip = divisor < 0;
    const std::uint64_t d = std::uint64_t(flip ? -divisor : divisor);
    bool negative = false;
    if constexpr (std::is_signed_v<A>) negative = sum < 0;
    const std::uint64_t magnitude = negative ? 0 - std::uint64_t(sum) : std::uint64_t(sum);
    std::uint64_t q = magnitude / d;
    const std::uint64_t rest = magnitude - q * d;
    if (!truncate && (rest > d - rest || (rest == d - rest && (q & 1)))) ++q;
    return Out(negative != flip ? 0 - q : q);
  }
}

template <class A, class Out>
void divide_run(Out* __restrict dst, const A* __restrict src, Index n, double divisor, bool few, bool truncate) {
  if constexpr (sizeof(A) == 4 && sizeof(Out) == 1) {
    if (few && divisor > 0) {
      // Sums below 2^20 are exact in a float, and so far from a tie that its quotient is good enough.
      constexpr float shift = 0x1.8p23f;
      const float d = float(divisor);
      for (Index i = 0; i < n; ++i) {
        const float q = float(src[i]) / d;
        const float nearest = (q + shift) - shift;
        dst[i] = Out(std::int32_t(truncate ? q : nearest));
      }
      return;
    }
  }
  if constexpr (is_half<Out>) {
    A part[256];
    for (Index i = 0; i < n; i += 256) {
      const Index m = n - i < 256 ? n - i : 256;
      for (Index j = 0; j < m; ++j) part[j] = src[i + j];
      divide_in_place(part, m, divisor);
      convert_run(dst + i, part, m);
    }
  } else {
    if constexpr (std::is_same_v<A, Out> && std::is_floating_point_v<A>)
      if (halves(divisor)) {
        const A factor = A(1 / divisor);
        for (Index i = 0; i < n; ++i) dst[i] = src[i] * factor;
        return;
      }
    for (Index i = 0; i < n; ++i) dst[i] = quotient<Out>(src[i], divisor, truncate);
  }
}

template <class A, class Out>
void finish(void* dst_, const void* src_, Index columns, Index inner, const Divisor* by) {
  auto* __restrict dst = static_cast<Out*>(dst_);
  auto* __restrict src = static_cast<const A*>(src_);
  if (!by) return convert_run(dst, src, columns * inner);
  if constexpr (!std::is_same_v<Out, bool_t>) {
    if (!by->column) return divide_run(dst, src, columns * inner, by->scale, by->few, by->truncate);
    if (inner == 1) {
      for (Index o = 0; o < columns; ++o)
        dst[o] = quotient<Out>(src[o], by->column[o] * by->scale, by->truncate);
      return;
    }
    for (Index o = 0; o < columns; ++o)
      divide_run(dst + o * inner, src + o * inner, inner, by->column[o] * by->scale, by->few, by->truncate);
  }
}

// Divides a run of accumulators in place by what `by` says.
template <class A>
void divide_columns(A* x, Index columns, Index inner, const Divisor& by) {
  if (!by.column) return divide_in_place(x, columns * inner, by.scale);
  if (inner == 1) {
    for (Index o = 0; o < columns; ++o) x[o] /= A(by.column[o] * by.scale);
    return;
  }
  for (Index o = 0; o < columns; ++o, x += inner) divide_in_place(x, inner, by.column[o] * by.scale);
}

template <class R, class A>
void lower(void* run, Index columns, Index inner, const Divisor* by, const Parameters& p) {
  auto* x = static_cast<A*>(run);
  if (by) divide_columns(x, columns, inner, *by);
  R::lower(x, columns * inner, p);
}

template <class R, class A, class P, class Out>
void finish_counted(void* dst_, Line src, Index n, bool truncate, const Parameters& p) {
  auto* __restrict dst = static_cast<Out*>(dst_);
  auto* sum = static_cast<const A*>(src.value);
  auto* count = static_cast<const P*>(src.place);
  if constexpr (std::is_floating_point_v<A>) {
    A part[256];
    for (Index i = 0; i < n; i += 256) {
      const Index m = n - i < 256 ? n - i : 256;
      for (Index j = 0; j < m; ++j) part[j] = sum[i + j] / A(count[i + j]);
      if constexpr (lifting<R>) R::lower(part, m, p);
      convert_run(dst + i, part, m);
    }
  } else {
    for (Index i = 0; i < n; ++i) dst[i] = quotient<Out>(sum[i], double(count[i]), truncate);
  }
}

template <class R, class In, class A>
Index find_identity(const void* value, Index at, Index n) {
  const A identity = A(R::template identity<std::conditional_t<is_half<In>, float, In>>);
  auto* x = static_cast<const A*>(value);
  for (; at < n; at += 64) {  // a block at a time, in vectors
    const Index m = n - at < 64 ? n - at : 64;
    int any = 0;
    for (Index i = 0; i < m; ++i) any |= x[at + i] == identity;
    if (any) break;
  }
  while (at < n && x[at] != identity) ++at;
  return at < n ? at : n;
}

template <class A, class P>
void locate(void* place_, const void* value_, const void* run, Index count, Index inner, std::uint64_t from,
            std::uint64_t step) {
  constexpr P unknown = P(-1);
  auto* __restrict place = static_cast<P*>(place_);
  auto* value = static_cast<const A*>(value_);
  auto* x = static_cast<const A*>(run);
  if (inner == 1) {
    const A v = *value;
    if (is_nan(v)) {
      for (Index k = 0; k < count; ++k)
        if (is_nan(x[k])) *place = P(from + k * step);
      return;
    }
    if (*place != unknown) return;
    Index k = 0;
    for (; k < count; k += 64) {  // a block at a time, in vectors
      const Index m = count - k < 64 ? count - k : 64;
      int any = 0;
      for (Index i = 0; i < m; ++i) any |= x[k + i] == v;
      if (any) break;
    }
    while (k < count && x[k] != v) ++k;
    if (k < count) *place = P(from + k * step);
    return;
  }
  for (Index k = 0; k < count; ++k, x += inner) {
    const P here = P(from + k * step);
    for (Index c = 0; c < inner; ++c) {
      const bool met = is_nan(value[c]) ? is_nan(x[c]) : bool(x[c] == value[c]) & bool(place[c] == unknown);
      place[c] = met ? here : place[c];
    }
  }
}

template <class P>
void store_places(void* dst, std::size_t size, const void* place, Index columns, Index inner, Index base, Index step) {
  auto* p = static_cast<const P*>(place);
  const auto run = [&](auto* __restrict d) {
    using D = std::remove_reference_t<decltype(*d)>;
    if (base == 0 && step == 0) {
      for (Index i = 0; i < columns * inner; ++i) d[i] = static_cast<D>(p[i]);
    } else if (inner == 1) {
      for (Index o = 0; o < columns; ++o) d[o] = static_cast<D>(static_cast<Index>(p[o]) + (base + o * step));
    } else {
      for (Index o = 0; o < columns; ++o)
        for (Index i = 0; i < inner; ++i)
          d[o * inner + i] = static_cast<D>(static_cast<Index>(p[o * inner + i]) + (base + o * step));
    }
  };
  if (size == 1) run(static_cast<std::uint8_t*>(dst));
  else if (size == 2) run(static_cast<std::uint16_t*>(dst));
  else if (size == 4) run(static_cast<std::uint32_t*>(dst));
  else run(static_cast<std::uint64_t*>(dst));
}

template <class Visit>
void visit_offsets(const void* offset, std::size_t size, Visit visit) {
  if (size == 1) visit(static_cast<const std::uint8_t*>(offset));
  else if (size == 2) visit(static_cast<const std::uint16_t*>(offset));
  else if (size == 4) visit(static_cast<const std::uint32_t*>(offset));
  else visit(static_cast<const std::uint64_t*>(offset));
}

template <class A>
void widen_offsets(void* dst_, const void* src, std::size_t src_size, Index n) {
  auto* __restrict dst = static_cast<lane<A>*>(dst_);
  visit_offsets(src, src_size, [&](const auto* __restrict off) {
    for (Index i = 0; i < n; ++i) dst[i] = static_cast<lane<A>>(off[i]);
  });
}

template <class A, int lines, int count>
void route_run(void* const* to, const std::uint64_t* places, const A* __restrict grad, const lane<A>* __restrict offset,
               const Tap* taps, Index n) {
  constexpr int l1 = lines > 1 ? 1 : 0, l2 = lines > 2 ? 2 : 0, c1 = count > 1 ? 1 : 0, c2 = count > 2 ? 2 : 0;
  auto *__restrict a0 = static_cast<A*>(to[0]), *__restrict a1 = static_cast<A*>(to[l1]),
       *__restrict a2 = static_cast<A*>(to[l2]);
  const auto p0 = lane<A>(places[0]), p1 = lane<A>(places[l1]), p2 = lane<A>(places[l2]);
  const auto t0 = lane<A>(taps[0].place), t1 = lane<A>(taps[c1].place), t2 = lane<A>(taps[c2].place);
  const Index b0 = taps[0].back, b1 = taps[c1].back, b2 = taps[c2].back;
  for (Index i = 0; i < n; ++i) {
    const A g0 = grad[i - b0], g1 = grad[i - b1], g2 = grad[i - b2];
    const auto o0 = offset[i - b0], o1 = offset[i - b1], o2 = offset[i - b2];
    const auto add = [&](A v, lane<A> p) {
      v = o0 == p + t0 ? v + g0 : v;
      if constexpr (count > 1) v = o1 == p + t1 ? v + g1 : v;
      if constexpr (count > 2) v = o2 == p + t2 ? v + g2 : v;
      return v;
    };
    a0[i] = add(a0[i], p0);
    if constexpr (lines > 1) a1[i] = add(a1[i], p1);
    if constexpr (lines > 2) a2[i] = add(a2[i], p2);
  }
}

template <class A>
void route(void* const* lines, const std::uint64_t* places, int line_count, const void* grad_, const void* offset_,
           const Tap* taps, int tap_count, Index n) {
  auto* grad = static_cast<const A*>(grad_);
  auto* offset = static_cast<const lane<A>*>(offset_);
  using Run = void (*)(void* const*, const std::uint64_t*, const A*, const lane<A>*, const Tap*, Index);
  static constexpr Run runs[3][3] = {{route_run<A, 1, 1>, route_run<A, 1, 2>, route_run<A, 1, 3>},
                                     {route_run<A, 2, 1>, route_run<A, 2, 2>, route_run<A, 2, 3>},
                                     {route_run<A, 3, 1>, route_run<A, 3, 2>, route_run<A, 3, 3>}};
  runs[line_count - 1][tap_count - 1](lines, places, grad, offset, taps, n);
}

template <class A>
void scatter(void* acc_, const void* grad_, const void* offset, std::size_t offset_size, const std::int32_t* delta,
             Index window, Index columns, Index column_step, Index inner) {
  auto* grad = static_cast<const A*>(grad_);
  visit_offsets(offset, offset_size, [&](const auto* off) {
    auto* acc = static_cast<A*>(acc_);
    for (Index o = 0; o < columns; ++o, acc += column_step, off += inner, grad += inner)
      for (Index c = 0; c < inner; ++c) {
        auto tap = off[c];
        if constexpr (sizeof(tap) > 2) tap = tap < std::uint64_t(window) ? tap : 0;
        acc[delta[tap] + c] += grad[c];
      }
  });
}

template <class A>
void interleave(void* dst_, const void* const* phases, Index stride, Index columns, Index inner) {
  auto* __restrict dst = static_cast<A*>(dst_);
  if (stride == 2 && inner == 1) {
    auto* even = static_cast<const A*>(phases[0]);
    auto* odd = static_cast<const A*>(phases[1]);
    for (Index o = 0; o < columns / 2; ++o) {
      dst[2 * o] = even[o];
      dst[2 * o + 1] = odd[o];
    }
    if (columns & 1) dst[columns - 1] = even[columns / 2];
    return;
  }
  for (Index phase = 0; phase < stride && phase < columns; ++phase) {
    auto* src = static_cast<const A*>(phases[phase]);
    for (Index o = 0; o * stride + phase < columns; ++o)
      for (Index c = 0; c < inner; ++c) dst[(o * stride + phase) * inner + c] = src[o * inner + c];
  }
}

// ---------------------------------------------------------------- the table

template <class T>
struct tag { using type = T; };

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::float64;
  else if constexpr (std::is_same_v<T, float>) return DType::float32;
  else if constexpr (std::is_same_v<T, float16_t>) return DType::float16;
  else if constexpr (std::is_same_v<T, bfloat16_t>) return DType::bfloat16;
  else if constexpr (std::is_same_v<T, bool_t>) return DType::boolean;
  else {
    constexpr int log = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
    return static_cast<DType>(static_cast<int>(std::is_signed_v<T> ? DType::int8 : DType::uint8) + log);
  }
}

template <class In>
inline constexpr bool is_float = std::is_floating_point_v<In> || is_half<In>;

// The accumulator and the type of its places for one input type.
template <class R, class In, Variant variant>
constexpr auto accumulator() {
  constexpr bool places = variant == Variant::places || variant == Variant::wide_places;
  if constexpr (is_float<In>) {
    if constexpr (sizeof(In) == 8 || variant == Variant::wide_places) return tag<double>{};
    else return tag<float>{};
  } else if constexpr (R::info.selects && !places) {
    if constexpr (std::is_same_v<In, bool_t>) return tag<std::uint8_t>{};
    else return tag<In>{};
  } else if constexpr (R::info.selects) {
    constexpr bool wide = sizeof(In) == 8 || variant == Variant::wide_places;
    constexpr bool is_signed = sizeof(In) < 4 || std::is_signed_v<In>;
    if constexpr (wide && is_signed) return tag<std::int64_t>{};
    else if constexpr (wide) return tag<std::uint64_t>{};
    else if constexpr (is_signed) return tag<std::int32_t>{};
    else return tag<std::uint32_t>{};
  } else {
    if constexpr (sizeof(In) <= 2 && variant == Variant::values) return tag<std::int32_t>{};
    else if constexpr (sizeof(In) == 8 && !std::is_signed_v<In>) return tag<std::uint64_t>{};
    else return tag<std::int64_t>{};
  }
}

template <class R, class In>
constexpr auto output() {
  if constexpr (is_float<In> || R::info.selects || R::info.divides) return tag<In>{};
  else if constexpr (std::is_signed_v<In>) return tag<std::int64_t>{};
  else return tag<std::uint64_t>{};
}

template <class R, class In, Variant variant>
const Kernels* kernels() {
  using A = typename decltype(accumulator<R, In, variant>())::type;
  using Out = typename decltype(output<R, In>())::type;
  constexpr bool places = variant == Variant::places || variant == Variant::wide_places;
  constexpr bool counts = variant == Variant::counts;
  using P = std::conditional_t<!places && !counts, no_place,
                               std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t>>;
  using L = Loops<R, A, P>;
  static const Kernels set = [] {
    Kernels k;
    k.in_size = sizeof(In);
    k.acc_size = sizeof(A);
    k.out_size = sizeof(Out);
    k.out = dtype_of<Out>();
    k.direct_load = std::is_same_v<A, In>;
    k.direct_finish = std::is_same_v<A, Out>;
    k.fill = fill<R, std::conditional_t<std::is_same_v<In, bool_t>, bool, In>, A, P>;
    k.load = load<In, A>;
    k.merge[0] = L::merge;
    k.merge_strided[0] = L::merge_strided;
    if constexpr (R::info.selects && std::is_floating_point_v<A>) {
      using Clean = Loops<R, A, P, true>;
      k.any_nan = any_nan<A>;
      k.merge[1] = Clean::merge;
      k.merge_strided[1] = Clean::merge_strided;
    } else {
      k.merge[1] = k.merge[0];
      k.merge_strided[1] = k.merge_strided[0];
    }
    if constexpr (places) {
      k.merge_values[0] = Loops<R, A, no_place>::merge;
      k.merge_values[1] = Loops<R, A, no_place, true>::merge;
    } else {
      k.merge_values[0] = k.merge[0];
      k.merge_values[1] = k.merge[1];
    }
    k.fold = L::fold;
    k.fold_each = fold_each<R, A, P>;
    k.finish = finish<A, Out>;
    k.lifts = lifting<R>;
    k.admit = admit<R, std::conditional_t<std::is_same_v<In, bool_t>, bool, In>, A, P>;
    if constexpr (lifting<R>) k.lower = lower<R, A>;
    if constexpr (counts) {
      k.place_size = sizeof(P);
      k.finish_counted = finish_counted<R, A, P, Out>;
    }
    if constexpr (places) {
      k.place_size = sizeof(P);
      k.find_identity = find_identity<R, std::conditional_t<std::is_same_v<In, bool_t>, bool, In>, A>;
      k.store_places = store_places<P>;
      k.locate = locate<A, P>;
    }
    if constexpr (is_float<In> && !places && !counts) {
      k.load_divided = load_divided<In, A>;
      k.widen_offsets = widen_offsets<A>;
      k.route = route<A>;
      k.scatter = scatter<A>;
      k.interleave = interleave<A>;
    }
    return k;
  }();
  return &set;
}

template <class R, class In>
const Kernels* of_input(Variant variant) {
  constexpr Domain domain = R::info.domain;
  if constexpr ((std::is_same_v<In, bool_t> && domain != Domain::all) || (!is_float<In> && domain == Domain::floats)) {
    return nullptr;
  } else {
    if (variant == Variant::values) return kernels<R, In, Variant::values>();
    if constexpr (R::info.selects) {
      if (variant == Variant::places) return kernels<R, In, Variant::places>();
      if (variant == Variant::wide_places) return kernels<R, In, Variant::wide_places>();
    } else {
      if constexpr (R::info.divides)
        if (variant == Variant::counts) return kernels<R, In, Variant::counts>();
      if (variant == Variant::wide_values)  // floats are as wide as they get
        return kernels<R, In, is_float<In> ? Variant::values : Variant::wide_values>();
    }
    return nullptr;
  }
}

template <class R>
const Kernels* of_reducer(DType in, Variant variant) {
  switch (in) {
    case DType::float64: return of_input<R, double>(variant);
    case DType::float32: return of_input<R, float>(variant);
    case DType::float16: return of_input<R, float16_t>(variant);
    case DType::bfloat16: return of_input<R, bfloat16_t>(variant);
    case DType::int8: return of_input<R, std::int8_t>(variant);
    case DType::int16: return of_input<R, std::int16_t>(variant);
    case DType::int32: return of_input<R, std::int32_t>(variant);
    case DType::int64: return of_input<R, std::int64_t>(variant);
    case DType::uint8: return of_input<R, std::uint8_t>(variant);
    case DType::uint16: return of_input<R, std::uint16_t>(variant);
    case DType::uint32: return of_input<R, std::uint32_t>(variant);
    case DType::uint64: return of_input<R, std::uint64_t>(variant);
    case DType::boolean: return of_input<R, bool_t>(variant);
  }
  return nullptr;
}

template <class... R>
const Kernels* of_list(int reducer, DType in, Variant variant) {
  using Find = const Kernels* (*)(DType, Variant);
  static constexpr Find table[] = {of_reducer<R>...};
  if (reducer >= int(sizeof...(R))) return nullptr;  // gathered: it has no loops here
  return table[reducer](in, variant);
}

const Kernels* find(int reducer, DType in, Variant variant) {
  using namespace reducers;
  return of_list<INFINITYPOOL_REDUCERS>(reducer, in, variant);
}

}  // namespace infinitypool::INFINITYPOOL_ISA

namespace infinitypool {
extern const IsaTable INFINITYPOOL_TABLE(table);
const IsaTable INFINITYPOOL_TABLE(table) = {
    INFINITYPOOL_ISA_NAME, INFINITYPOOL_ISA::find, INFINITYPOOL_ISA::stream};
}  // namespace infinitypool
