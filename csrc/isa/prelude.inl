// What the loops of every file are written in. Included inside an instruction set's namespace.

// A loop whose iterations do not depend on one another, in place or not.
#if defined(_MSC_VER) && !defined(__clang__)
#define INFINITYPOOL_INDEPENDENT __pragma(loop(ivdep))
#elif defined(__clang__)
#define INFINITYPOOL_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INFINITYPOOL_INDEPENDENT _Pragma("GCC ivdep")
#endif

// The name of this instruction set as text, and the name of its table of a kind.
#define INFINITYPOOL_TEXT_(x) #x
#define INFINITYPOOL_TEXT(x) INFINITYPOOL_TEXT_(x)
#define INFINITYPOOL_JOIN_(a, b) a##_##b
#define INFINITYPOOL_JOIN(a, b) INFINITYPOOL_JOIN_(a, b)
#define INFINITYPOOL_ISA_NAME INFINITYPOOL_TEXT(INFINITYPOOL_ISA)
#define INFINITYPOOL_TABLE(kind) INFINITYPOOL_JOIN(kind, INFINITYPOOL_ISA)

#include "../simd/convert.hpp"
#include "../simd/math.hpp"
#include "../simd/stream.hpp"

// ---------------------------------------------------------------- what reducers are written in

template <class A>
inline constexpr A lowest = std::numeric_limits<A>::has_infinity ? A(-std::numeric_limits<A>::infinity())
                                                                 : std::numeric_limits<A>::lowest();
template <class A>
inline constexpr A highest = std::numeric_limits<A>::has_infinity ? std::numeric_limits<A>::infinity()
                                                                  : std::numeric_limits<A>::max();

template <class A>
inline bool is_nan(A x) {
  if constexpr (std::is_floating_point_v<A>) return x != x;
  else return false;
}

template <class A>
inline A wrapping_add(A a, A b) {
  if constexpr (std::is_integral_v<A>) {
    using U = std::make_unsigned_t<A>;
    return A(U(a) + U(b));
  } else {
    return a + b;
  }
}

template <class In, class A>
void load_run(A* __restrict dst, const In* __restrict src, Index n, Index stride) {
  if (stride == 1) convert_run(dst, src, n);
  else for (Index i = 0; i < n; ++i) dst[i] = convert<A>(src[i * stride]);
}

template <class In, class A>
void load(void* dst_, Index dst_pitch, const void* src_, Runs r) {
  auto* dst = static_cast<A*>(dst_);
  auto* src = static_cast<const In*>(src_);
  if (r.inner == 1 && dst_pitch == 1) return load_run(dst, src, r.columns, r.pitch);
  if (r.inner_stride == 1 && r.pitch == r.inner && dst_pitch == r.inner)
    return convert_run(dst, src, r.columns * r.inner);
  if (r.inner == 1) {
    for (Index o = 0; o < r.columns; ++o) dst[o * dst_pitch] = convert<A>(src[o * r.pitch]);
    return;
  }
  for (Index o = 0; o < r.columns; ++o) load_run(dst + o * dst_pitch, src + o * r.pitch, r.inner, r.inner_stride);
}

template <class A>
bool any_nan(const void* run, Index n) {
  // Without its sign, a NaN's pattern is larger than infinity's: a running maximum finds it.
  using U = std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t>;
  auto* x = static_cast<const U*>(run);
  U largest = 0;
  for (Index i = 0; i < n; ++i) {
    const U magnitude = x[i] + x[i];
    largest = magnitude > largest ? magnitude : largest;
  }
  const U infinity = bits_as<U>(std::numeric_limits<A>::infinity());
  return largest > infinity + infinity;
}
