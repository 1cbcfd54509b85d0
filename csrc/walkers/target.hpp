// Where results go: contiguous runs directly or around the cache, anything else element by element.
#pragma once

#include <cstring>

#include "../kernels.hpp"

namespace infinitypool {

inline constexpr std::size_t kStreamBytes = std::size_t(8) << 20;  // larger results bypass the cache

inline char* advance(void* p, Index elements, std::size_t size) {
  return static_cast<char*>(p) + elements * static_cast<Index>(size);
}
inline const char* advance(const void* p, Index elements, std::size_t size) {
  return static_cast<const char*>(p) + elements * static_cast<Index>(size);
}

inline Line advance(Line l, Index elements, const Kernels& k) {
  return {advance(l.value, elements, k.acc_size), l.place ? advance(l.place, elements, k.place_size) : nullptr};
}
// Asks for input before it is read, a little with every piece of work: a core that waits for memory
// does not compute, and one that computes does not ask.
class ReadAhead {
 public:
  // Everything before `end` has been asked for by the work itself; nothing from `last` on, if given, will be read.
  void consumed(const char* end, const char* last = nullptr) {
    if (next_ < end || next_ > end + kDistance) next_ = end;
    limit_ = last && last < end + kDistance ? last : end + kDistance;
  }
  void ask(Index bytes) {
#if defined(__GNUC__)
    const char* until = next_ + bytes < limit_ ? next_ + bytes : limit_;
    for (; next_ < until; next_ += 64) __builtin_prefetch(next_, 0, 2);  // harmless beyond the input's end
#else
    (void)bytes;
#endif
  }

 private:
  static constexpr Index kDistance = Index(128) << 10;
  const char* next_ = nullptr;
  const char* limit_ = nullptr;
};

inline void set(Term& t, const void* value, const void* place, Index elements, const Kernels& k) {
  t.value = advance(value, elements, k.acc_size);
  t.place = place ? advance(place, elements, k.place_size) : nullptr;
  t.shift = 0;
}

struct Target {
  void* base = nullptr;
  std::size_t size = 1;         // bytes of an element
  Index column = 1, inner = 1;  // strides
  bool streams = false;
  const IsaTable* isa = nullptr;

  bool contiguous(Index columns, Index run) const {
    return (run == 1 || inner == 1) && (columns == 1 || column == run);
  }
  void* at(Index where) const { return advance(base, where, size); }

  // columns × run elements, which lie in order at `from`.
  void store(Index where, const void* from, Index columns, Index run) const {
    char* to = advance(base, where, size);
    if (to == from) return;
    const auto bytes = static_cast<std::size_t>(columns * run) * size;
    if (contiguous(columns, run)) {
      if (streams) isa->stream(to, from, bytes);
      else std::memcpy(to, from, bytes);
      return;
    }
    const char* src = static_cast<const char*>(from);
    for (Index c = 0; c < columns; ++c)
      for (Index i = 0; i < run; ++i, src += size) std::memcpy(advance(to, c * column + i * inner, size), src, size);
  }
};

}  // namespace infinitypool
