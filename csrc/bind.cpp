// The binding: pointers and plans in, results out. Arguments arrive validated.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "memory/recycler.hpp"
#include "table.hpp"
#include "walkers/pool.hpp"
#include "walkers/route.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

void bind_unpool(nb::module_& m);

namespace {

// Memory of the recycler behind the buffer protocol; given back when the last view is gone.
struct Block {
  void* data;
  std::size_t bytes;
  explicit Block(std::size_t n) : data(memory::acquire(n)), bytes(n) {}
  ~Block() { memory::release(data, bytes); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  auto* block = nb::inst_ptr<Block>(nb::handle(self));
  return PyBuffer_FillInfo(view, self, block->data, static_cast<Py_ssize_t>(block->bytes), 0, flags);
}

PyType_Slot block_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};

Places places_from(const std::string& kind) {
  if (kind == "none") return Places::none;
  if (kind == "offset") return Places::offset;
  if (kind == "plane") return Places::plane;
  throw std::invalid_argument("unknown kind of indices '" + kind + "'");
}

void check_lengths(const PoolArguments& a) {
  const std::size_t n = a.axes.size(), d = a.shape.size();
  for (auto* v : {&a.kernel, &a.stride, &a.before, &a.after, &a.dilation, &a.out})
    if (v->size() != n) throw std::invalid_argument("one entry per pooled axis is needed");
  if (n == 0 || a.in_strides.size() != d || a.out_strides.size() != d)
    throw std::invalid_argument("one stride per axis is needed");
  for (std::size_t i = 0; i < n; ++i)
    if (a.axes[i] < 0 || a.axes[i] >= static_cast<int>(d) || (i && a.axes[i] <= a.axes[i - 1]))
      throw std::invalid_argument("axes must ascend within the shape");
}

void* pointer(std::uintptr_t p) { return reinterpret_cast<void*>(p); }

// The gradient: of means and sums it is spread, of maxima and minima routed to the winner.
class PoolBackward {
 public:
  explicit PoolBackward(const PoolArguments& a) {
    if (reducers()[reducer_from(a.reducer)].selects) route_ = std::make_unique<Route>(a);
    else spread_ = std::make_unique<Pool>(Pool::spread(a));
  }
  void run(const void* grad, const void* offsets, void* grad_in) const {
    if (route_) route_->run(grad, offsets, grad_in);
    else spread_->run(grad, grad_in, nullptr);
  }

 private:
  std::unique_ptr<Route> route_;
  std::unique_ptr<Pool> spread_;
};

nb::list reducer_list() {
  nb::list list;
  for (std::size_t r = 0; r < reducers().size(); ++r) {
    const ReducerInfo& info = reducers()[r];
    nb::list dtypes;
    for (int d = 0; d < kDTypes; ++d)
      if (isa().find(static_cast<int>(r), static_cast<DType>(d), Variant::values))
        dtypes.append(name_of(static_cast<DType>(d)));
    nb::dict entry;
    entry["name"] = info.name;
    entry["spec"] = info.numpy;
    entry["dtypes"] = dtypes;
    entry["indices"] = info.selects;
    entry["gradient"] = info.gradient;
    list.append(entry);
  }
  return list;
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // cached plans live until the interpreter ends
  try {
    isa();
  } catch (const std::runtime_error& e) {
    throw nb::import_error(e.what());
  }

  nb::class_<Block>(m, "Block", nb::type_slots(block_slots)).def(nb::init<std::size_t>(), "nbytes"_a);

  nb::class_<Pool>(m, "Pool")
      .def(
          "__init__",
          [](Pool* self, const std::string& reducer, const std::string& dtype, Shape shape, Shape strides,
             Shape out_strides, std::vector<int> axes, Shape kernel_size, Shape stride, Shape padding_before,
             Shape padding_after, Shape dilation, Shape output_size, bool count_include_pad, Index divisor_override,
             bool truncate, const std::string& indices) {
            PoolArguments a{.reducer = reducer, .dtype = dtype_from(dtype.c_str()), .shape = std::move(shape),
                            .in_strides = std::move(strides), .out_strides = std::move(out_strides),
                            .offset_strides = {}, .axes = std::move(axes), .kernel = std::move(kernel_size),
                            .stride = std::move(stride), .before = std::move(padding_before),
                            .after = std::move(padding_after), .dilation = std::move(dilation),
                            .out = std::move(output_size), .count_include_pad = count_include_pad,
                            .divisor_override = divisor_override, .truncate = truncate,
                            .places = places_from(indices)};
            check_lengths(a);
            new (self) Pool(a);
          },
          "reducer"_a, "dtype"_a, "shape"_a, "strides"_a, "out_strides"_a, "axes"_a, "kernel_size"_a, "stride"_a,
          "padding_before"_a, "padding_after"_a, "dilation"_a, "output_size"_a, "count_include_pad"_a,
          "divisor_override"_a, "truncate"_a, "indices"_a)
      .def(
          "run",
          [](const Pool& self, std::uintptr_t in, std::uintptr_t out, std::uintptr_t indices) {
            nb::gil_scoped_release release;
            self.run(pointer(in), pointer(out), pointer(indices));
          },
          "x"_a, "out"_a, "indices"_a);

  nb::class_<PoolBackward>(m, "PoolBackward")
      .def(
          "__init__",
          [](PoolBackward* self, const std::string& reducer, const std::string& dtype, Shape shape,
             Shape grad_strides, Shape offset_strides, Shape grad_in_strides, std::vector<int> axes,
             Shape kernel_size, Shape stride, Shape padding_before, Shape padding_after, Shape dilation,
             Shape output_size, bool count_include_pad, Index divisor_override) {
            PoolArguments a{.reducer = reducer, .dtype = dtype_from(dtype.c_str()), .shape = std::move(shape),
                            .in_strides = std::move(grad_in_strides), .out_strides = std::move(grad_strides),
                            .offset_strides = std::move(offset_strides), .axes = std::move(axes),
                            .kernel = std::move(kernel_size), .stride = std::move(stride),
                            .before = std::move(padding_before), .after = std::move(padding_after),
                            .dilation = std::move(dilation), .out = std::move(output_size),
                            .count_include_pad = count_include_pad, .divisor_override = divisor_override};
            check_lengths(a);
            if (!is_floating(a.dtype)) throw std::invalid_argument("gradients need a floating-point dtype");
            new (self) PoolBackward(a);
          },
          "reducer"_a, "dtype"_a, "shape"_a, "grad_strides"_a, "offset_strides"_a, "grad_in_strides"_a, "axes"_a,
          "kernel_size"_a, "stride"_a, "padding_before"_a, "padding_after"_a, "dilation"_a, "output_size"_a,
          "count_include_pad"_a, "divisor_override"_a)
      .def(
          "run",
          [](const PoolBackward& self, std::uintptr_t grad, std::uintptr_t offsets, std::uintptr_t grad_in) {
            nb::gil_scoped_release release;
            self.run(pointer(grad), pointer(offsets), pointer(grad_in));
          },
          "grad"_a, "offsets"_a, "grad_in"_a);

  bind_unpool(m);

  m.def("set_num_threads", &set_thread_count, "n"_a);
  m.def("get_num_threads", &thread_count);
  m.def("empty_cache", &memory::empty);
  m.def("set_cache_limit", &memory::set_limit, "nbytes"_a);
  m.def("cache_info", [] {
    const auto info = memory::info();
    nb::dict d;
    d["limit"] = info.limit;
    d["cached"] = info.cached;
    d["in_use"] = info.in_use;
    return d;
  });
  m.def("isa", [] { return std::string(isa().name); });
  m.def("isas", &available_isas);
  m.def("reducers", &reducer_list);
  m.def("openmp", &openmp_runtime);
}
