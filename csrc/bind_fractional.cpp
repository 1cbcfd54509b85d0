#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "walkers/fractional.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

void bind_fractional(nb::module_& m) {
  const auto at = [](std::uintptr_t p) { return reinterpret_cast<void*>(p); };
  nb::class_<Fractional>(m, "Fractional")
      .def(
          "__init__",
          [](Fractional* self, const std::string& dtype, Shape shape, Shape strides, Shape out_strides,
             std::vector<int> axes, Shape kernel_size, Shape output_size, const std::string& indices) {
            const Places places = indices == "none" ? Places::none : indices == "offset" ? Places::offset : Places::plane;
            if (places == Places::plane && indices != "plane")
              throw std::invalid_argument("unknown kind of indices '" + indices + "'");
            new (self) Fractional({dtype_from(dtype.c_str()), std::move(shape), std::move(strides),
                                   std::move(out_strides), std::move(axes), std::move(kernel_size),
                                   std::move(output_size), places});
          },
          "dtype"_a, "shape"_a, "strides"_a, "out_strides"_a, "axes"_a, "kernel_size"_a, "output_size"_a, "indices"_a)
      .def(
          "run",
          [at](const Fractional& self, std::uintptr_t x, std::uintptr_t out, std::uintptr_t indices,
               std::uintptr_t starts) {
            nb::gil_scoped_release release;
            self.run(at(x), at(out), at(indices), static_cast<const Index*>(at(starts)));
          },
          "x"_a, "out"_a, "indices"_a, "starts"_a)
      .def(
          "backward",
          [at](const Fractional& self, std::uintptr_t grad, std::uintptr_t offsets, std::uintptr_t grad_in,
               std::uintptr_t starts) {
            nb::gil_scoped_release release;
            self.backward(at(grad), at(offsets), at(grad_in), static_cast<const Index*>(at(starts)));
          },
          "grad"_a, "offsets"_a, "grad_in"_a, "starts"_a);
}
