// The binding of dropout.

#include <nanobind/nanobind.h>

#include "call.hpp"
#include "dropout/dropout.hpp"
#include "memory/recycler.hpp"
#include "norm/norm.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

void bind_dropout(nb::module_& m) {
  nb::class_<Dropout>(m, "Dropout")
      .def(
          "__init__",
          [](Dropout* self, const char* dtype, double p, double scale, double kept, double dropped) {
            new (self) Dropout(dtype_from(dtype), p, {scale, kept, dropped});
          },
          "dtype"_a, "p"_a, "scale"_a, "kept"_a, "dropped"_a)
      .def(
          "run",
          [](const Dropout& self, std::uintptr_t x, std::uintptr_t residual, std::uintptr_t out, Index n,
             std::uint64_t seed) {
            nb::gil_scoped_release release;
            self.run(reinterpret_cast<const void*>(x), reinterpret_cast<const void*>(residual),
                     reinterpret_cast<void*>(out), n, seed);
          },
          "x"_a, "residual"_a, "out"_a, "n"_a, "seed"_a)
      .def(
          "factors",
          [](const Dropout& self, std::uintptr_t factors, std::uintptr_t offsets, Index n, std::uint64_t seed) {
            nb::gil_scoped_release release;
            self.factors(reinterpret_cast<double*>(factors), reinterpret_cast<double*>(offsets), n, seed);
          },
          "factors"_a, "offsets"_a, "n"_a, "seed"_a)
      .def(
          "dropping",
          [](const Dropout& self, Index n) {
            return Work{[&self, n](void* const* p, std::uint64_t seed) {
              self.run(p[0], p[1], p[2], n, seed);
              return true;
            }};
          },
          "n"_a, nb::keep_alive<0, 1>())
      .def(
          "dropping_channels",  // n of them, which `scales` multiplies and, if it is to, adds to
          [](const Dropout& self, const Norm& scales, Index n, bool adds) {
            return Work{[&self, &scales, n, adds](void* const* p, std::uint64_t seed) {
              const auto count = static_cast<std::size_t>(n);
              const memory::Buffer numbers((adds ? 2 : 1) * count * sizeof(double));
              auto* factors = reinterpret_cast<double*>(numbers.data());
              double* offsets = adds ? factors + count : nullptr;
              self.factors(factors, offsets, n, seed);
              scales.scale(p[0], p[1], factors, offsets);
              return true;
            }};
          },
          "scales"_a, "n"_a, "adds"_a, nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>());
}
