#include "small.hpp"

#include <algorithm>
#include <utility>

#include "scratch.hpp"
#include "target.hpp"

namespace infinitypool {

void SmallWalk::run(const Kernels& k, const void* in, void* out, void* places, std::size_t place_bytes) const {
  const bool finishes = !divisors.empty() || !k.direct_finish;
  Line loaded, spare, lines[2];
  Index widest = 0;
  for (const SmallAxis& axis : axes) widest = std::max(widest, axis.count * axis.inner);
  const Scratch scratch([&](Scratch& s) {
    loaded.value = k.direct_load ? nullptr : s.take(inputs, k.acc_size);
    loaded.place = nullptr;
    const std::size_t q = places ? k.place_size : 0;
    for (Line& line : lines) line = s.line(widest, k.acc_size, q);
    spare = s.line(2 * widest, k.acc_size, q);
  });

  Line from{const_cast<void*>(in), nullptr};
  if (!k.direct_load) {
    k.load(loaded.value, 1, in, {1, inputs, inputs, 1});
    from = loaded;
  }
  for (std::size_t a = 0; a < axes.size(); ++a) {
    Line to = lines[a % 2];
    if (a + 1 == axes.size() && !finishes) to.value = out;
    pool(k, axes[a], a == 0, from, to, spare);
    from = to;
  }
  const Index results = axes.back().count * axes.back().inner;
  if (!divisors.empty()) {
    const bool alike = divisors.size() == 1;
    const Divisor by{alike ? nullptr : divisors.data(), alike ? divisors[0] : 1.0, few, truncate};
    k.finish(out, from.value, results / inner, inner, &by);
  } else if (finishes) {
    k.finish(out, from.value, results / inner, inner, nullptr);
  }
  if (!places) return;
  k.store_places(places, place_bytes, from.place, results, 1, 0, 0);
  if (starts.empty()) return;
  auto* position = static_cast<Index*>(places);
  for (Index i = 0; i < results; ++i) position[i] += starts[i / inner];
}

void SmallWalk::pool(const Kernels& k, const SmallAxis& axis, bool first, Line from, Line to, Line spare) const {
  Term terms[kTerms];
  if (axis.windows.empty()) {
    for (int j = 0; j < axis.taps; ++j) {
      set(terms[j], from.value, from.place, j * axis.step * axis.inner, k);
      terms[j].shift = static_cast<std::uint64_t>(j) * axis.tap_place;
    }
    return k.merge_strided[0](to, terms, axis.taps, axis.count, axis.stride, axis.inner);
  }
  if (first) {
    set(terms[0], from.value, from.place, 0, k);
    return k.fold_each(to, terms[0], axis.windows.data(), axis.count, axis.step, axis.inner, axis.tap_place);
  }
  for (Index o = 0; o < axis.count; ++o) {
    const Window& w = axis.windows[o];
    const Line result = advance(to, o * axis.inner, k);
    Line partial = spare, other = advance(spare, axis.inner, k);
    int n = 0;
    for (Index j = 0; j < w.count; ++j) {
      if (n == kTerms) {  // merge what there is, and go on from there
        k.merge[0](partial, terms, n, axis.inner);
        set(terms[0], partial.value, partial.place, 0, k);
        std::swap(partial, other);
        n = 1;
      }
      set(terms[n], from.value, from.place, (w.first + j * axis.step) * axis.inner, k);
      terms[n++].shift = static_cast<std::uint64_t>(w.tap + j) * axis.tap_place;
    }
    k.merge[0](result, terms, n, axis.inner);
  }
}

}  // namespace infinitypool
