// The binding of dropout.

#include <nanobind/nanobind.h>

#include "dropout/dropout.hpp"

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
          "factors"_a, "offsets"_a, "n"_a, "seed"_a);
}
