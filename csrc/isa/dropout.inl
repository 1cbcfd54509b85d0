// The loops of dropout, compiled once per instruction set as kernels.inl is: a mask first, then what is done with it.

#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "../dropout/kernels.hpp"

namespace infinitypool::INFINITYPOOL_ISA {

#include "prelude.inl"
#include "../simd/philox.hpp"

namespace dropout {

inline constexpr int kLanes = 16;

struct Keys {
  std::uint64_t seed;
  std::uint32_t k0[kRounds], k1[kRounds];  // of every round
  explicit Keys(std::uint64_t seed) : seed(seed) {
    for (int r = 0; r < kRounds; ++r) {
      k0[r] = std::uint32_t(seed) + std::uint32_t(r) * kW0;
      k1[r] = std::uint32_t(seed >> 32) + std::uint32_t(r) * kW1;
    }
  }
};

// One superblock: keep where the upper half of a draw is `upper` or more. True if one of them is `upper` itself.
#if defined(__AVX512F__)

// A word of eight counters lies in the low halves of 64-bit lanes. The high halves are never looked at: a product
// takes the low ones alone, and nothing but products moves bits down.
struct Counters {
  __m512i c0, c1, c2, c3;
  void round(std::uint32_t k0, std::uint32_t k1) {
    const __m512i p = _mm512_mul_epu32(c0, _mm512_set1_epi64(kM0)), q = _mm512_mul_epu32(c2, _mm512_set1_epi64(kM1));
    c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(q, 32), c1, _mm512_set1_epi32(int(k0)), 0x96);
    c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p, 32), c3, _mm512_set1_epi32(int(k1)), 0x96);
    c1 = q;
    c3 = p;
  }
};

inline bool draw_superblock(std::uint32_t* keep, std::uint64_t number, std::uint32_t upper, const Keys& keys) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i steps = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i first = _mm512_add_epi64(_mm512_set1_epi64((long long)number), steps);
  const __m512i above = _mm512_set1_epi64((long long)(number >> 32));  // sixteen numbers share it
  Counters even{first, above, zero, zero};
  Counters odd{_mm512_add_epi64(first, _mm512_set1_epi64(1)), above, zero, zero};
  for (int r = 0; r < kRounds; ++r) {
    even.round(keys.k0[r], keys.k1[r]);
    odd.round(keys.k0[r], keys.k1[r]);
  }
  const __m512i limit = _mm512_set1_epi32(int(upper)), mask = _mm512_set1_epi32(0xffff);
  const __m512i tie = _mm512_set1_epi16(short(upper));
  __mmask32 ties = 0;
  const auto word = [&](int w, __m512i a, __m512i b) {
    const __m512i v = _mm512_mask_shuffle_epi32(a, 0xaaaa, b, _MM_PERM_CDAB);
    const __m512i low = _mm512_and_si512(v, mask), high = _mm512_srli_epi32(v, 16);
    _mm512_storeu_si512(keep + 32 * w, _mm512_movm_epi32(_mm512_cmpge_epi32_mask(low, limit)));
    _mm512_storeu_si512(keep + 32 * w + 16, _mm512_movm_epi32(_mm512_cmpge_epi32_mask(high, limit)));
    ties |= _mm512_cmpeq_epi16_mask(v, tie);
  };
  word(0, even.c0, odd.c0);
  word(1, even.c1, odd.c1);
  word(2, even.c2, odd.c2);
  word(3, even.c3, odd.c3);
  return ties != 0;
}

#elif defined(__AVX2__)

struct Counters {  // four of them, as above
  __m256i c0, c1, c2, c3;
  void round(__m256i k0, __m256i k1) {
    const __m256i p = _mm256_mul_epu32(c0, _mm256_set1_epi64x(kM0)), q = _mm256_mul_epu32(c2, _mm256_set1_epi64x(kM1));
    c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(q, 32), c1), k0);
    c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p, 32), c3), k1);
    c1 = q;
    c3 = p;
  }
};

inline bool draw_superblock(std::uint32_t* keep, std::uint64_t number, std::uint32_t upper, const Keys& keys) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i limit = _mm256_set1_epi32(int(upper) - 1), mask = _mm256_set1_epi32(0xffff);
  const __m256i tie = _mm256_set1_epi16(short(upper)), above = _mm256_set1_epi64x((long long)(number >> 32));
  __m256i ties = zero;
  for (int side = 0; side < 2; ++side) {  // lanes 0 to 7, and the rest
    const __m256i steps = _mm256_setr_epi64x(0, 2, 4, 6);
    const __m256i first = _mm256_add_epi64(_mm256_set1_epi64x((long long)number + 8 * side), steps);
    Counters even{first, above, zero, zero}, odd{_mm256_add_epi64(first, _mm256_set1_epi64x(1)), above, zero, zero};
    for (int r = 0; r < kRounds; ++r) {
      const __m256i k0 = _mm256_set1_epi32(int(keys.k0[r])), k1 = _mm256_set1_epi32(int(keys.k1[r]));
      even.round(k0, k1);
      odd.round(k0, k1);
    }
    std::uint32_t* to = keep + 8 * side;
    const auto word = [&](int w, __m256i a, __m256i b) {
      const __m256i v = _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa);
      const __m256i low = _mm256_and_si256(v, mask), high = _mm256_srli_epi32(v, 16);
      _mm256_storeu_si256((__m256i*)(to + 32 * w), _mm256_cmpgt_epi32(low, limit));
      _mm256_storeu_si256((__m256i*)(to + 32 * w + 16), _mm256_cmpgt_epi32(high, limit));
      ties = _mm256_or_si256(ties, _mm256_cmpeq_epi16(v, tie));
    };
    word(0, even.c0, odd.c0);
    word(1, even.c1, odd.c1);
    word(2, even.c2, odd.c2);
    word(3, even.c3, odd.c3);
  }
  return !_mm256_testz_si256(ties, ties);
}

#else

inline bool draw_superblock(std::uint32_t* keep, std::uint64_t number, std::uint32_t upper, const Keys& keys) {
  std::uint32_t words[4][kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const Drawn drawn = philox(number + std::uint64_t(i), 0, keys.seed);
    for (int w = 0; w < 4; ++w) words[w][i] = drawn.word[w];
  }
  std::uint32_t ties = 0;
  for (int w = 0; w < 4; ++w)
    for (int i = 0; i < kLanes; ++i) {
      const std::int32_t low = std::int32_t(words[w][i] & 0xffffu), high = std::int32_t(words[w][i] >> 16);
      keep[32 * w + i] = low >= std::int32_t(upper) ? ~0u : 0u;
      keep[32 * w + kLanes + i] = high >= std::int32_t(upper) ? ~0u : 0u;
      ties |= std::uint32_t(low == std::int32_t(upper)) | std::uint32_t(high == std::int32_t(upper));
    }
  return ties != 0;
}

#endif

// Draws whose upper half is the threshold's: their lower half, from the second stream, decides. So few that they
// are looked for one by one.
inline void settle(std::uint32_t* keep, std::uint64_t number, std::uint32_t upper, std::uint32_t lower,
                   std::uint64_t seed) {
  for (int i = 0; i < kLanes; ++i) {
    const Drawn drawn = philox(number + std::uint64_t(i), 0, seed);
    for (int h = 0; h < 8; ++h) {
      const auto half = [h](const Drawn& d) { return (d.word[h / 2] >> (h % 2 * 16)) & 0xffffu; };
      if (half(drawn) != upper) continue;
      if (half(philox(number + std::uint64_t(i), 1, seed)) < lower) keep[h * kLanes + i] = 0;
    }
  }
}

inline void draw(std::uint32_t* keep, std::uint64_t first, Index count, std::uint64_t threshold, std::uint64_t seed) {
  const Keys keys(seed);
  const std::uint32_t upper = std::uint32_t(threshold >> 16), lower = std::uint32_t(threshold & 0xffffu);
  for (Index s = 0; s < count; ++s, keep += kSuperblock) {
    const std::uint64_t number = (first + std::uint64_t(s)) * kLanes;
    if (draw_superblock(keep, number, upper, keys) && lower) settle(keep, number, upper, lower, seed);
  }
}

// ---------------------------------------------------------------- the loops

template <class A, bool shifts, bool adds>
void mix(A* out, const A* x, const A* residual, const std::uint32_t* keep, Index n, const Mixture& m) {
  using Bits = std::conditional_t<sizeof(A) == 8, std::uint64_t, std::uint32_t>;
  const Bits scale = bits_as<Bits>(A(m.scale)), kept = bits_as<Bits>(A(m.kept)), dropped = bits_as<Bits>(A(m.dropped));
  INFINITYPOOL_INDEPENDENT
  for (Index i = 0; i < n; ++i) {
    const Bits mask = Bits(std::make_signed_t<Bits>(std::int32_t(keep[i])));
    A y = x[i] * bits_as<A>(scale & mask);  // also where it is dropped: a NaN stays one
    if constexpr (shifts) y = y + bits_as<A>((kept & mask) | (dropped & ~mask));
    if constexpr (adds) y = y + residual[i];
    out[i] = y;
  }
}

template <class A>
void mix(A* out, const A* x, const A* residual, const std::uint32_t* keep, Index n, const Mixture& m) {
  if (m.shifts()) {
    if (residual) mix<A, true, true>(out, x, residual, keep, n, m);
    else mix<A, true, false>(out, x, residual, keep, n, m);
  } else {
    if (residual) mix<A, false, true>(out, x, residual, keep, n, m);
    else mix<A, false, false>(out, x, residual, keep, n, m);
  }
}

template <class T>
void mix_run(void* out_, const void* x_, const void* residual_, const std::uint32_t* keep, Index n, const Mixture& m) {
  auto* out = static_cast<T*>(out_);
  auto* x = static_cast<const T*>(x_);
  auto* residual = static_cast<const T*>(residual_);
  if constexpr (is_half<T>) {
    constexpr Index kPiece = 256;
    alignas(64) float wide[kPiece], more[kPiece];
    for (Index at = 0; at < n; at += kPiece) {
      const Index count = n - at < kPiece ? n - at : kPiece;
      convert_run(wide, x + at, count);
      if (residual) convert_run(more, residual + at, count);
      mix<float>(wide, wide, residual ? more : nullptr, keep + at, count, m);
      convert_run(out + at, wide, count);
    }
  } else {
    mix<T>(out, x, residual, keep, n, m);
  }
}

}  // namespace dropout
}  // namespace infinitypool::INFINITYPOOL_ISA

namespace infinitypool {
extern const DropoutTable INFINITYPOOL_TABLE(dropout);
const DropoutTable INFINITYPOOL_TABLE(dropout) = {
    INFINITYPOOL_ISA_NAME,
    INFINITYPOOL_ISA::dropout::draw,
    {INFINITYPOOL_ISA::dropout::mix_run<double>, INFINITYPOOL_ISA::dropout::mix_run<float>,
     INFINITYPOOL_ISA::dropout::mix_run<float16_t>, INFINITYPOOL_ISA::dropout::mix_run<bfloat16_t>}};
}  // namespace infinitypool
