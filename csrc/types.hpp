// Element types and the vocabulary that every part of the core shares.
#pragma once

#include <cstddef>
#include <cstdint>

namespace infinitypool {

using Index = std::int64_t;  // sizes, strides and positions are 64-bit throughout

enum class DType : std::uint8_t {
  float64, float32, float16, bfloat16,
  int8, int16, int32, int64,
  uint8, uint16, uint32, uint64,
  boolean,
};
inline constexpr int kDTypes = 13;

// Storage-only types: arithmetic happens in an accumulator.
struct float16_t { std::uint16_t bits; };
struct bfloat16_t { std::uint16_t bits; };
struct bool_t { std::uint8_t bits; };

constexpr std::size_t size_of(DType d) {
  constexpr std::size_t sizes[kDTypes] = {8, 4, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1};
  return sizes[static_cast<int>(d)];
}

constexpr bool is_floating(DType d) { return static_cast<int>(d) <= static_cast<int>(DType::bfloat16); }

const char* name_of(DType d);
DType dtype_from(const char* name);  // throws std::invalid_argument

// A run of accumulators and, where winners are tracked, the place of each winner.
struct Line {
  void* value;
  void* place;
};
// What one merge takes at most. Five inputs in one pass cost fewer stores than two passes of three.
inline constexpr int kTerms = 5;

// Terms are filled in field by field and never copied whole: a 16-byte load of two fresh 8-byte
// stores waits for all stores before it, which costs more than a line's arithmetic.
struct Term {
  const void* value;
  const void* place;
  std::uint64_t shift;  // added to every place that this term contributes; without places, the place itself
};

// The inputs first, first + step, ... of one output; tap is the place of the first in its window.
struct Window {
  Index first, count, tap;
  bool operator==(const Window&) const = default;
};

// A rectangle of elements in memory: `columns` runs of `inner` elements.
struct Runs {
  Index columns, pitch;        // elements from one run to the next
  Index inner, inner_stride;
};

}  // namespace infinitypool
