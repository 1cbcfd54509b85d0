// The binding of max unpooling.

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "call.hpp"
#include "walkers/unpool.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

void bind_unpool(nb::module_& m) {
  nb::class_<Unpool>(m, "Unpool")
      .def(
          "__init__",
          [](Unpool* self, Index item_size, Shape shape, Shape in_strides, Shape index_strides, Shape out_shape,
             Shape out_strides, std::vector<int> axes) {
            new (self) Unpool({item_size, std::move(shape), std::move(in_strides), std::move(index_strides),
                               std::move(out_shape), std::move(out_strides), std::move(axes)});
          },
          "item_size"_a, "shape"_a, "in_strides"_a, "index_strides"_a, "out_shape"_a, "out_strides"_a, "axes"_a)
      .def(
          "run",
          [](const Unpool& self, std::uintptr_t x, std::uintptr_t indices, std::uintptr_t out) {
            nb::gil_scoped_release release;
            return self.run(reinterpret_cast<const void*>(x), reinterpret_cast<const Index*>(indices),
                            reinterpret_cast<void*>(out));
          },
          "x"_a, "indices"_a, "out"_a)
      .def(
          "gather",
          [](const Unpool& self, std::uintptr_t grad, std::uintptr_t indices, std::uintptr_t grad_in) {
            nb::gil_scoped_release release;
            return self.gather(reinterpret_cast<const void*>(grad), reinterpret_cast<const Index*>(indices),
                               reinterpret_cast<void*>(grad_in));
          },
          "grad"_a, "indices"_a, "grad_in"_a)
      .def(
          "unpooling",
          [](const Unpool& self) {
            return Work{[&self](void* const* p, std::uint64_t) {
              return self.run(p[0], static_cast<const Index*>(p[1]), p[2]) < 0;
            }};
          },
          nb::keep_alive<0, 1>())
      .def(
          "gathering",
          [](const Unpool& self) {
            return Work{[&self](void* const* p, std::uint64_t) {
              return self.gather(p[0], static_cast<const Index*>(p[1]), p[2]) < 0;
            }};
          },
          nb::keep_alive<0, 1>());
}
