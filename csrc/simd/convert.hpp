// Conversions between storage types and accumulators. Included inside an instruction set's
// namespace; software and hardware paths give the same bits for every input.

template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, x);
}

inline float widen(float16_t h) {
  const std::uint32_t shifted = std::uint32_t(h.bits & 0x7fffu) << 13;
  const std::uint32_t sign = std::uint32_t(h.bits & 0x8000u) << 16;
  // A half's exponent sits 112 below a float's; the product also normalises subnormals.
  const std::uint32_t finite = bits_as<std::uint32_t>(bits_as<float>(shifted) * 0x1p112f);
  const std::uint32_t quiet = (h.bits & 0x3ffu) ? 0x400000u : 0u;
  const std::uint32_t special = shifted | 0x7f800000u | quiet;
  return bits_as<float>(((h.bits & 0x7c00u) == 0x7c00u ? special : finite) | sign);
}

inline float widen(bfloat16_t b) { return bits_as<float>(std::uint32_t(b.bits) << 16); }

template <class To>
inline To narrow(float x);

template <>
inline float16_t narrow<float16_t>(float x) {
  const std::uint32_t bits = bits_as<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding one half puts a subnormal's last place where the float's is: the sum rounds for us.
  const std::uint32_t tiny =
      bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - bits_as<std::uint32_t>(0.5f);
  const std::uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  std::uint32_t h = magnitude < 0x38800000u ? tiny : normal;
  h = magnitude >= 0x47800000u ? 0x7c00u : h;
  h = magnitude > 0x7f800000u ? nan : h;
  return {std::uint16_t(h | ((bits >> 16) & 0x8000u))};
}

template <>
inline bfloat16_t narrow<bfloat16_t>(float x) {
  const std::uint32_t bits = bits_as<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return {std::uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

template <class T>
inline constexpr bool is_half = std::is_same_v<T, float16_t> || std::is_same_v<T, bfloat16_t>;

template <class To, class From>
inline To convert(From x) {
  if constexpr (std::is_same_v<From, bool_t>) return To(x.bits != 0);
  else if constexpr (std::is_same_v<To, bool_t>) return {std::uint8_t(x != 0)};
  else if constexpr (is_half<From>) return To(widen(x));
  else if constexpr (is_half<To>) return narrow<To>(float(x));
  else return To(x);
}

template <class To, class From>
inline void convert_run(To* __restrict dst, const From* __restrict src, Index n) {
  Index i = 0;
#if defined(__F16C__)
  // Compilers do not vectorise these conversions on their own.
  if constexpr (std::is_same_v<From, float16_t> && std::is_same_v<To, float>) {
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(src + i))));
#endif
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(src + i))));
  }
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float16_t>) {
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256((__m256i*)(dst + i), _mm512_cvtps_ph(_mm512_loadu_ps(src + i), 0));
#endif
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128((__m128i*)(dst + i), _mm256_cvtps_ph(_mm256_loadu_ps(src + i), 0));
  }
#endif
  for (; i < n; ++i) dst[i] = convert<To>(src[i]);
}
