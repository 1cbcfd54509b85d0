// The loops of the gathered reducers, compiled once per instruction set as kernels.inl is. Windows lie side by
// side: a loop runs over windows, and the elements of one window follow one another.

#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "../gathered.hpp"

namespace infinitypool::INFINITYPOOL_ISA {

#include "prelude.inl"
#include "../simd/philox.hpp"

namespace gathered {

// Loops over windows that stand for themselves: inlined into what is around them, compilers tend to give up on
// their vectors.
#if defined(__GNUC__)
#define INFINITYPOOL_LOOP [[gnu::noinline]] static
#else
#define INFINITYPOOL_LOOP static
#endif

// Up to kWindowsAtATime windows, from the at-th of every tap on.
template <class A>
struct Side {
  const A* const* tap;
  Index count, at, n;
  const double* draw;
  A* __restrict result;
  std::uint32_t* __restrict chosen;
  const A* grad;
  A* const* sum;
  const Windows* all;
};

// beta as a sign and a size: a smooth minimum is a maximum turned around.
template <class A>
struct Slope {
  A sign, size;
  explicit Slope(double beta) : sign(beta < 0 ? A(-1) : A(1)), size(A(beta < 0 ? -beta : beta)) {
    if (beta != 0 && size < std::numeric_limits<A>::min()) size = std::numeric_limits<A>::min();
    if (size > std::numeric_limits<A>::max()) size = std::numeric_limits<A>::max();
  }
};

// Every window's largest sign * x. A NaN may be passed over: it comes up again in the sum of exponentials.
template <class A>
INFINITYPOOL_LOOP void raise(A* __restrict peak, const A* __restrict x, Index n, A sign) {
  for (Index i = 0; i < n; ++i) {
    const A v = sign * x[i];
    peak[i] = v > peak[i] ? v : peak[i];
  }
}
template <class A>
void find_peak(A* __restrict peak, const Side<A>& w, const Slope<A>& slope) {
  for (Index i = 0; i < w.n; ++i) peak[i] = slope.sign * w.tap[0][w.at + i];
  for (Index j = 1; j < w.count; ++j) raise(peak, w.tap[j] + w.at, w.n, slope.sign);
}

// How far v lies below the peak: not at all where both are infinite.
template <class A>
inline A below(A v, A peak) {
  return v == peak ? A(0) : v - peak;
}

// As one comparison and two choices, it swaps both or none: zeros of either sign are kept.
template <class A>
inline void exchange(A& low, A& high) {
  const A a = low, b = high;
  low = b < a ? b : a;
  high = b < a ? a : b;
}

// use(results, elements of rank low, of rank high, n) for all windows, a few at a time.
template <class A, class Use>
void sort_windows(const Side<A>& w, Index low, Index high, Use use) {
  constexpr Index kPiece = 128 / sizeof(A);
  alignas(64) A sorted[kNetwork][kPiece];
  for (Index first = 0; first < w.n; first += kPiece) {
    const Index m = w.n - first < kPiece ? w.n - first : kPiece;
    for (Index j = 0; j < w.count; ++j) std::memcpy(sorted[j], w.tap[j] + w.at + first, m * sizeof(A));
    for (Index e = 0; e < w.all->exchanges; ++e) {
      A* __restrict a = sorted[w.all->network[e].low];
      A* __restrict b = sorted[w.all->network[e].high];
#pragma GCC ivdep
      for (Index i = 0; i < kPiece; ++i) exchange(a[i], b[i]);
    }
    use(w.result + first, sorted[low], sorted[high], m);
  }
}

// Batcher's network for the median of `count` elements, with its exchanges written out: elements stay in registers.
template <int count>
struct MedianNetwork {
  struct List {
    int n = 0;
    Exchange at[count * 12] = {};
  };
  static constexpr List list = [] {
    List all, needed;
    for (int p = 1; p < count; p += p)
      for (int k = p; k >= 1; k /= 2)
        for (int j = k % p; j + k < count; j += 2 * k)
          for (int i = 0; i < k && i + j + k < count; ++i)
            if ((i + j) / (2 * p) == (i + j + k) / (2 * p))
              all.at[all.n++] = {std::uint16_t(i + j), std::uint16_t(i + j + k)};
    bool matters[count] = {};
    matters[count / 2] = true;
    for (int e = all.n; e-- > 0;)
      if (matters[all.at[e].low] || matters[all.at[e].high]) {
        matters[all.at[e].low] = matters[all.at[e].high] = true;
        needed.at[needed.n++] = all.at[e];
      }
    return needed;  // the last comes first
  }();

  template <class A, std::size_t... e>
  static void sort(A* v, std::index_sequence<e...>) {
    (exchange(v[list.at[list.n - 1 - int(e)].low], v[list.at[list.n - 1 - int(e)].high]), ...);
  }
  template <class A, std::size_t... j>
  static bool load(A* v, const A* const* tap, Index i, std::index_sequence<j...>) {
    ((v[j] = tap[j][i]), ...);
    return (is_nan(v[j]) | ...);
  }

  // The medians of n windows side by side; false if there is a NaN among their elements.
  template <class A>
  INFINITYPOOL_LOOP bool medians(A* __restrict to, const A* const* taps, Index n) {
    const A* tap[count];
    for (int j = 0; j < count; ++j) tap[j] = taps[j];
    std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t> nans = 0;
    for (Index i = 0; i < n; ++i) {
      A v[count];
      const bool nan = load(v, tap, i, std::make_index_sequence<count>{});
      if constexpr (std::is_floating_point_v<A>) nans |= nan;
      sort(v, std::make_index_sequence<list.n>{});
      to[i] = v[count / 2];
      if constexpr (std::is_floating_point_v<A>) to[i] += A(0);  // equal zeros come in no order: no sign
    }
    return !nans;
  }
};

// The element of rank k of x, by Hoare's quickselect on a copy; `next` gets the one after it in rank. No NaNs.
template <class A>
A select(const A* x, A* room, Index n, Index k, A* next) {
  if constexpr (sizeof(A) == 1) {  // so few values that they are counted
    std::uint64_t counts[256] = {};
    constexpr int shift = std::is_signed_v<A> ? 128 : 0;
    for (Index i = 0; i < n; ++i) ++counts[int(x[i]) + shift];
    Index passed = 0;
    int v = 0;
    while (passed + Index(counts[v]) <= k) passed += Index(counts[v++]);
    const A found = A(v - shift);
    if (passed + Index(counts[v]) <= k + 1 && k + 1 < n)
      for (++v; !counts[v];) ++v;
    *next = A(v - shift);
    return found;
  } else {
    std::memcpy(room, x, n * sizeof(A));
    Index first = 0, last = n - 1;
    std::uint64_t state = 0x9e3779b97f4a7c15u;  // pivots from anywhere: no order of elements is a bad one
    while (last - first > 16) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      A a = room[first], b = room[first + Index((state >> 33) % std::uint64_t(last - first))], c = room[last];
      exchange(a, b);
      exchange(b, c);
      exchange(a, b);
      const A pivot = b;
      Index i = first, j = last;
      while (i <= j) {
        while (room[i] < pivot) ++i;
        while (pivot < room[j]) --j;
        if (i <= j) {
          const A t = room[i];
          room[i++] = room[j];
          room[j--] = t;
        }
      }
      if (k <= j) last = j;
      else if (k >= i) first = i;
      else first = last = k;
    }
    for (Index i = first + 1; i <= last; ++i) {
      const A v = room[i];
      Index j = i;
      for (; j > first && v < room[j - 1]; --j) room[j] = room[j - 1];
      room[j] = v;
    }
    if (k + 1 < n) {  // what is behind k is no smaller
      A least = room[k + 1];
      for (Index i = k + 2; i < n; ++i) least = room[i] < least ? room[i] : least;
      *next = least;
    } else {
      *next = room[k];
    }
    return room[k];
  }
}

namespace reducers {
#include "gathered.inc"  // every header of csrc/reducers/gathered, found by CMake
}
namespace weighted {
#include "weighted.inc"  // and of csrc/reducers/weighted
}

// ---------------------------------------------------------------- the loops

template <class A, class Each>
void in_pieces(const Windows& w, Each each) {
  for (Index at = 0; at < w.n; at += kWindowsAtATime) {
    auto* result = static_cast<A*>(w.result);
    each(Side<A>{reinterpret_cast<const A* const*>(w.tap), w.count, at,
                 w.n - at < kWindowsAtATime ? w.n - at : kWindowsAtATime, w.draw ? w.draw + at : nullptr, result + at,
                 w.chosen ? w.chosen + at : nullptr, w.grad ? static_cast<const A*>(w.grad) + at : nullptr,
                 reinterpret_cast<A* const*>(w.sum), &w});
  }
}

template <class R, class A>
void reduce(const Windows& w, const Parameters& p) {
  if constexpr (requires { R::template reduce_all<A>(w, p); })
    if (R::template reduce_all<A>(w, p)) return;
  in_pieces<A>(w, [&](const Side<A>& side) { R::reduce(side, p); });
}

template <class R, class A>
void share(const Windows& w, const Parameters& p) {
  in_pieces<A>(w, [&](const Side<A>& side) { R::share(side, p); });
}

template <class R, class A>
void reduce_one(const void* window, void* room, Index count, void* result, std::uint32_t* chosen, const Parameters& p) {
  *static_cast<A*>(result) = R::reduce_one(static_cast<const A*>(window), static_cast<A*>(room), count, chosen, p);
}

template <class R, class A>
void empty(void* result, const Parameters& p) {
  *static_cast<A*>(result) = R::template empty<A>(p);
}

template <class A, class Out>
void finish(void* dst, const void* src, Index n) {
  convert_run(static_cast<Out*>(dst), static_cast<const A*>(src), n);
}

template <class In>
inline constexpr bool is_float = std::is_floating_point_v<In> || is_half<In>;

template <class In>
GatheredKernels common() {
  using A = std::conditional_t<is_half<In>, float, In>;
  GatheredKernels k;
  k.in_size = sizeof(In);
  k.acc_size = sizeof(A);
  k.direct = std::is_same_v<In, A>;
  k.load = load<In, A>;
  if constexpr (is_float<In>) k.any_nan = any_nan<A>;
  k.finish = finish<A, In>;
  return k;
}

template <class R, class In>
const GatheredKernels* reducing() {
  if constexpr (std::is_same_v<In, bool_t> || (R::info.domain == Domain::floats && !is_float<In>)) {
    return nullptr;
  } else {
    using A = std::conditional_t<is_half<In>, float, In>;
    static const GatheredKernels set = [] {
      GatheredKernels k = common<In>();
      k.reduce = reduce<R, A>;
      k.empty = empty<R, A>;
      if constexpr (requires { R::draws; }) k.draws = true;
      if constexpr (requires { R::template slides<A>; }) k.slides = R::template slides<A>;
      if constexpr (requires { &R::ranks; }) {
        k.ranks = R::ranks;
        k.reduce_one = reduce_one<R, A>;
      }
      return k;
    }();
    return &set;
  }
}

template <class R, class In>
const GatheredKernels* sharing() {
  using A = std::conditional_t<is_half<In>, float, In>;
  if constexpr (is_float<In> && requires(const Side<A>& w, const Parameters& p) { R::share(w, p); }) {
    static const GatheredKernels set = [] {
      GatheredKernels k = common<In>();
      k.share = share<R, A>;
      return k;
    }();
    return &set;
  } else {
    return nullptr;
  }
}

template <class Use>
const GatheredKernels* of_type(DType in, Use use) {
  switch (in) {
    case DType::float64: return use(double{});
    case DType::float32: return use(float{});
    case DType::float16: return use(float16_t{});
    case DType::bfloat16: return use(bfloat16_t{});
    case DType::int8: return use(std::int8_t{});
    case DType::int16: return use(std::int16_t{});
    case DType::int32: return use(std::int32_t{});
    case DType::int64: return use(std::int64_t{});
    case DType::uint8: return use(std::uint8_t{});
    case DType::uint16: return use(std::uint16_t{});
    case DType::uint32: return use(std::uint32_t{});
    case DType::uint64: return use(std::uint64_t{});
    case DType::boolean: return nullptr;
  }
  return nullptr;
}

template <class... R>
struct List {
  static constexpr const ReducerInfo* infos[] = {&R::info...};
  static const GatheredKernels* find(const char* name, DType in) {
    const GatheredKernels* found = nullptr;
    (void)((std::strcmp(name, R::info.name) == 0 &&
            (found = of_type(in, []<class In>(In) { return reducing<R, In>(); }), true)) || ...);
    return found;
  }
  static const GatheredKernels* gradient(const char* name, DType in) {
    const GatheredKernels* found = nullptr;
    (void)((std::strcmp(name, R::info.name) == 0 &&
            (found = of_type(in, []<class In>(In) { return sharing<R, In>(); }), true)) || ...);
    return found;
  }
};

template <class... R>
const GatheredKernels* of_weighted(const char* name, DType in) {
  const GatheredKernels* found = nullptr;
  (void)((std::strcmp(name, R::name) == 0 &&
          (found = of_type(in, []<class In>(In) { return sharing<R, In>(); }), true)) || ...);
  return found;
}

using namespace reducers;
using All = List<INFINITYPOOL_GATHERED>;

inline const GatheredKernels* gradient(const char* name, DType in) {
  using namespace weighted;
  if (const GatheredKernels* k = of_weighted<INFINITYPOOL_WEIGHTED>(name, in)) return k;
  return All::gradient(name, in);
}

// The output's number is the counter: a draw depends on that and the seed alone.
inline void draw(double* __restrict draws, Index n, std::uint64_t first, std::uint64_t step, std::uint64_t seed) {
  for (Index i = 0; i < n; ++i) {
    const std::uint64_t number = first + std::uint64_t(i) * step;
    const Drawn drawn = philox(number, 0, seed);
    const std::uint64_t both = std::uint64_t(drawn.word[0]) << 32 | drawn.word[1];
    const std::uint64_t bits = both >> 12;  // 52 of them behind a one: [1, 2)
    draws[i] = bits_as<double>(bits | 0x3ff0000000000000u) - 1;
  }
}

}  // namespace gathered
}  // namespace infinitypool::INFINITYPOOL_ISA

namespace infinitypool {
extern const GatheredTable INFINITYPOOL_TABLE(gathered);
const GatheredTable INFINITYPOOL_TABLE(gathered) = {
    INFINITYPOOL_ISA_NAME, INFINITYPOOL_ISA::gathered::All::infos,
    int(sizeof(INFINITYPOOL_ISA::gathered::All::infos) / sizeof(const ReducerInfo*)),
    INFINITYPOOL_ISA::gathered::All::find, INFINITYPOOL_ISA::gathered::gradient,
    INFINITYPOOL_ISA::gathered::draw};
}  // namespace infinitypool
