// The binding of norm, activation and pooling in one pass.

#include "norm_pool/norm_pool.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind.hpp"
#include "call.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

void bind_norm_pool(nb::module_& m) {
  nb::class_<NormPool>(m, "NormPool")
      .def(
          "__init__",
          [](NormPool* self, const Norm& norm, const std::string& reducer, Shape out_strides, std::vector<int> axes,
             const std::vector<Shape>& windows, bool count_include_pad, Index divisor_override, bool truncate,
             const std::vector<double>& parameters) {
            const NormArguments& of_norm = norm.arguments();
            PoolArguments a{.reducer = reducer, .dtype = of_norm.dtype, .shape = of_norm.sizes,
                            .in_strides = of_norm.out_strides, .out_strides = std::move(out_strides),
                            .offset_strides = {}, .axes = std::move(axes), .windows = windows_from(windows),
                            .count_include_pad = count_include_pad, .divisor_override = divisor_override,
                            .truncate = truncate, .parameters = parameters_from(parameters)};
            check_lengths(a);
            new (self) NormPool(of_norm, a);
          },
          "norm"_a, "reducer"_a, "out_strides"_a, "axes"_a, "windows"_a, "count_include_pad"_a, "divisor_override"_a,
          "truncate"_a, "parameters"_a)
      .def(
          "run",
          [](const NormPool& self, std::uintptr_t x, std::uintptr_t out, std::uintptr_t weight, std::uintptr_t bias,
             std::uintptr_t mean, std::uintptr_t var) {
            nb::gil_scoped_release release;
            const auto at = [](std::uintptr_t p) { return reinterpret_cast<void*>(p); };
            self.run(at(x), at(out), at(weight), at(bias), at(mean), at(var));
          },
          "x"_a, "out"_a, "weight"_a, "bias"_a, "mean"_a, "var"_a)
      .def(
          "work",
          [](const NormPool& self) {
            return Work{[&self](void* const* p, std::uint64_t) {
              self.run(p[0], p[1], p[2], p[3], p[4], p[5]);
              return true;
            }};
          },
          nb::keep_alive<0, 1>());
}
