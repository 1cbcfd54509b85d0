// Copies whose stores bypass the cache: a result larger than the cache would otherwise be read
// before it is written. Included inside an instruction set's namespace.

inline void stream(void* dst_, const void* src_, std::size_t bytes) {
  auto* dst = static_cast<unsigned char*>(dst_);
  auto* src = static_cast<const unsigned char*>(src_);
#if defined(__SSE2__)
  // Whole cache lines only: half-written ones would be flushed early.
  std::size_t head = (64 - (reinterpret_cast<std::uintptr_t>(dst) & 63)) & 63;
  if (head > bytes) head = bytes;
  std::memcpy(dst, src, head);
  std::size_t i = head;
  for (; i + 64 <= bytes; i += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)(dst + i), _mm512_loadu_si512(src + i));
#elif defined(__AVX__)
    _mm256_stream_si256((__m256i*)(dst + i), _mm256_loadu_si256((const __m256i*)(src + i)));
    _mm256_stream_si256((__m256i*)(dst + i + 32), _mm256_loadu_si256((const __m256i*)(src + i + 32)));
#else
    for (int j = 0; j < 64; j += 16)
      _mm_stream_si128((__m128i*)(dst + i + j), _mm_loadu_si128((const __m128i*)(src + i + j)));
#endif
  }
  std::memcpy(dst + i, src + i, bytes - i);
#else
  std::memcpy(dst, src, bytes);
#endif
}
