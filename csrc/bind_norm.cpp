// The binding of the norms.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "call.hpp"
#include "norm/norm.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

namespace {

using Address = std::uintptr_t;
void* at(Address p) { return reinterpret_cast<void*>(p); }
double* doubles(Address p) { return reinterpret_cast<double*>(p); }

Activation activation_from(const std::string& name) {
  constexpr const char* names[] = {"none", "relu", "leaky_relu", "silu", "gelu"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return static_cast<Activation>(i);
  throw std::invalid_argument("unknown activation '" + name + "'");
}

}  // namespace

void bind_norm(nb::module_& m) {
  nb::class_<Norm>(m, "Norm")
      .def(
          "__init__",
          [](Norm* self, const std::string& dtype, const std::string& parameter_dtype, const std::string& given_dtype,
             Shape sizes, Shape x_strides, Shape out_strides, Shape other_strides, Shape regions, Shape parameters,
             bool centered, double eps, const std::string& activation, double slope) {
            new (self) Norm({dtype_from(dtype.c_str()), dtype_from(parameter_dtype.c_str()),
                             dtype_from(given_dtype.c_str()), std::move(sizes), std::move(x_strides),
                             std::move(out_strides), std::move(other_strides), std::move(regions),
                             std::move(parameters), centered, eps, activation_from(activation), slope});
          },
          "dtype"_a, "parameter_dtype"_a, "given_dtype"_a, "sizes"_a, "x_strides"_a, "out_strides"_a,
          "other_strides"_a, "regions"_a, "parameters"_a, "centered"_a, "eps"_a, "activation"_a, "slope"_a)
      .def(
          "normalize",
          [](const Norm& self, Address x, Address residual, Address out, Address total, Address weight, Address bias,
             Address mean, Address var, Address running_mean, Address running_var, double momentum) {
            nb::gil_scoped_release release;
            self.normalize(at(x), at(residual), at(out), at(total), at(weight), at(bias), doubles(mean), doubles(var),
                           {at(running_mean), at(running_var), momentum});
          },
          "x"_a, "residual"_a, "out"_a, "total"_a, "weight"_a, "bias"_a, "mean"_a, "var"_a, "running_mean"_a,
          "running_var"_a, "momentum"_a)
      .def(
          "apply",
          [](const Norm& self, Address x, Address out, Address weight, Address bias, Address mean, Address var) {
            nb::gil_scoped_release release;
            self.apply(at(x), at(out), at(weight), at(bias), at(mean), at(var));
          },
          "x"_a, "out"_a, "weight"_a, "bias"_a, "mean"_a, "var"_a)
      .def(
          "statistics",
          [](const Norm& self, Address x, Address mean, Address var) {
            nb::gil_scoped_release release;
            self.normalize(at(x), nullptr, nullptr, nullptr, nullptr, nullptr, doubles(mean), doubles(var), {});
          },
          "x"_a, "mean"_a, "var"_a)
      .def(
          "gradient",
          [](const Norm& self, Address x, Address grad, Address out, Address weight, Address bias, Address mean,
             Address var, Address grad_weight, Address grad_bias, bool given) {
            nb::gil_scoped_release release;
            self.gradient({.x = at(x), .grad = at(grad), .out = at(out), .weight = at(weight), .bias = at(bias),
                           .mean = at(mean), .var = at(var), .grad_weight = at(grad_weight),
                           .grad_bias = at(grad_bias), .given = given});
          },
          "x"_a, "grad"_a, "out"_a, "weight"_a, "bias"_a, "mean"_a, "var"_a, "grad_weight"_a, "grad_bias"_a, "given"_a)
      .def(
          "gradient_sums",
          [](const Norm& self, Address x, Address grad, Address mean, Address sums) {
            nb::gil_scoped_release release;
            self.gradient({.x = at(x), .grad = at(grad), .out = nullptr, .weight = nullptr, .bias = nullptr,
                           .mean = at(mean), .var = nullptr, .sums = doubles(sums)});
          },
          "x"_a, "grad"_a, "mean"_a, "sums"_a)
      .def(
          "gradient_apply",
          [](const Norm& self, Address x, Address grad, Address out, Address weight, Address mean, Address var,
             Address sums, double count) {
            nb::gil_scoped_release release;
            self.gradient({.x = at(x), .grad = at(grad), .out = at(out), .weight = at(weight), .bias = nullptr,
                           .mean = at(mean), .var = at(var), .all = doubles(sums), .count = count});
          },
          "x"_a, "grad"_a, "out"_a, "weight"_a, "mean"_a, "var"_a, "sums"_a, "count"_a)
      .def(
          "scale",
          [](const Norm& self, Address x, Address out, Address factors, Address offsets) {
            nb::gil_scoped_release release;
            self.scale(at(x), at(out), doubles(factors), doubles(offsets));
          },
          "x"_a, "out"_a, "factors"_a, "offsets"_a)
      .def(
          "normalizing",
          [](const Norm& self, double momentum) {
            return Work{[&self, momentum](void* const* p, std::uint64_t) {
              self.normalize(p[0], p[1], p[2], p[3], p[4], p[5], static_cast<double*>(p[6]),
                             static_cast<double*>(p[7]), {p[8], p[9], momentum});
              return true;
            }};
          },
          "momentum"_a, nb::keep_alive<0, 1>())
      .def(
          "applying",
          [](const Norm& self) {
            return Work{[&self](void* const* p, std::uint64_t) {
              self.apply(p[0], p[1], p[2], p[3], p[4], p[5]);
              return true;
            }};
          },
          nb::keep_alive<0, 1>())
      .def(
          "differentiating",
          [](const Norm& self, bool given) {
            return Work{[&self, given](void* const* p, std::uint64_t) {
              self.gradient({.x = p[0], .grad = p[1], .out = p[2], .weight = p[3], .bias = p[4], .mean = p[5],
                             .var = p[6], .grad_weight = p[7], .grad_bias = p[8], .given = given});
              return true;
            }};
          },
          "given"_a, nb::keep_alive<0, 1>());
}
