// Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011), the seed as
// key. The counter is a number and, in its third word, the stream. Included inside an instruction set's namespace.

inline constexpr std::uint32_t kM0 = 0xd2511f53u, kM1 = 0xcd9e8d57u, kW0 = 0x9e3779b9u, kW1 = 0xbb67ae85u;
inline constexpr int kRounds = 10;

struct Drawn {
  std::uint32_t word[4];
};

inline Drawn philox(std::uint64_t number, std::uint32_t stream, std::uint64_t seed) {
  std::uint32_t c0 = std::uint32_t(number), c1 = std::uint32_t(number >> 32), c2 = stream, c3 = 0;
  std::uint32_t k0 = std::uint32_t(seed), k1 = std::uint32_t(seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p = std::uint64_t(kM0) * c0, q = std::uint64_t(kM1) * c2;
    c0 = std::uint32_t(q >> 32) ^ c1 ^ k0;
    c2 = std::uint32_t(p >> 32) ^ c3 ^ k1;
    c1 = std::uint32_t(q);
    c3 = std::uint32_t(p);
    k0 += kW0;
    k1 += kW1;
  }
  return {{c0, c1, c2, c3}};
}
