// The binding: pointers and plans in, results out. Arguments arrive validated.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind.hpp"
#include "call.hpp"
#include "memory/recycler.hpp"
#include "table.hpp"
#include "walkers/gathered.hpp"
#include "walkers/pool.hpp"
#include "walkers/route.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

void bind_norm(nb::module_& m);
void bind_norm_pool(nb::module_& m);
void bind_unpool(nb::module_& m);
void bind_dropout(nb::module_& m);
void bind_call(nb::module_& m);

namespace {

WindowArguments window_from(const Shape& w) {
  if (w.size() == 1 && w[0] > 0) return {.out = w[0], .adaptive = true};
  if (w.size() != 6 || w[0] < 1 || w[1] < 1 || w[4] < 1) throw std::invalid_argument("not a window");
  return {.kernel = w[0], .stride = w[1], .before = w[2], .after = w[3], .dilation = w[4], .out = w[5]};
}

}  // namespace

namespace infinitypool {

std::vector<WindowArguments> windows_from(const std::vector<Shape>& windows) {
  std::vector<WindowArguments> list;
  for (const Shape& w : windows) list.push_back(window_from(w));
  return list;
}

Parameters parameters_from(const std::vector<double>& values) {
  if (values.size() > kParameters) throw std::invalid_argument("too many parameters");
  Parameters p;
  for (std::size_t i = 0; i < values.size(); ++i) p.at[i] = values[i];
  return p;
}

void check_lengths(const PoolArguments& a) {
  const std::size_t n = a.axes.size(), d = a.shape.size();
  if (a.windows.size() != n) throw std::invalid_argument("one window per pooled axis is needed");
  if (n == 0 || a.in_strides.size() != d || a.out_strides.size() != d)
    throw std::invalid_argument("one stride per axis is needed");
  for (std::size_t i = 0; i < n; ++i)
    if (a.axes[i] < 0 || a.axes[i] >= static_cast<int>(d) || (i && a.axes[i] <= a.axes[i - 1]))
      throw std::invalid_argument("axes must ascend within the shape");
}

}  // namespace infinitypool

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

void* pointer(std::uintptr_t p) { return reinterpret_cast<void*>(p); }

// Forward: reducers that merge pieces of windows, or those that see a window at once.
class AnyPool {
 public:
  explicit AnyPool(const PoolArguments& a) {
    if (reducers()[reducer_from(a.reducer)].gathered) gathered_ = std::make_unique<Gathered>(a);
    else pool_ = std::make_unique<Pool>(a);
  }
  void run(const void* in, void* out, void* places, const std::uint8_t* mask, std::uint64_t seed) const {
    if (gathered_) gathered_->run(in, out, places, mask, seed);
    else pool_->run(in, out, places, mask);
  }

 private:
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<Gathered> gathered_;
};

// The gradient: of means and sums it is spread, of what selects an element routed to it, and otherwise weighed.
class PoolBackward {
 public:
  explicit PoolBackward(PoolArguments a) {
    const ReducerInfo& info = reducers()[reducer_from(a.reducer)];
    if (!a.x_strides.empty()) {
      weigh_ = std::make_unique<Weigh>(a);
    } else if (info.selects) {
      if (info.gathered) a.reducer = "max";  // offsets say all there is to say
      route_ = std::make_unique<Route>(a);
    } else if (info.gradient == Gradient::even) {
      spread_ = std::make_unique<Pool>(Pool::spread(a));
    } else {
      throw std::invalid_argument(a.reducer + ": the strides of x and of the result are needed");
    }
  }
  void run(const void* grad, const void* offsets, void* grad_in, const void* x, const void* result) const {
    if (weigh_) weigh_->run(grad, grad_in, x, result);
    else if (route_) route_->run(grad, offsets, grad_in);
    else spread_->run(grad, grad_in, nullptr);
  }

 private:
  std::unique_ptr<Weigh> weigh_;
  std::unique_ptr<Route> route_;
  std::unique_ptr<Pool> spread_;
};

// A maximum whose windows start elsewhere in every plane.
struct Fractional {
  Pool pool;
};

nb::list reducer_list() {
  constexpr const char* gradients[] = {"winner", "even", "weighted"};
  nb::list list;
  for (std::size_t r = 0; r < reducers().size(); ++r) {
    const ReducerInfo& info = reducers()[r];
    nb::list dtypes;
    for (int d = 0; d < kDTypes; ++d)
      if (info.gathered ? gathered_isa().find(info.name, static_cast<DType>(d)) != nullptr
                        : isa().find(static_cast<int>(r), static_cast<DType>(d), Variant::values) != nullptr)
        dtypes.append(name_of(static_cast<DType>(d)));
    nb::dict entry;
    entry["name"] = info.name;
    entry["spec"] = info.numpy;
    entry["dtypes"] = dtypes;
    entry["indices"] = info.selects;
    entry["gradient"] = gradients[static_cast<int>(info.gradient)];
    entry["gathered"] = info.gathered;
    entry["parameters"] = nb::str(info.parameters).attr("split")();
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

  bind_call(m);

  nb::class_<AnyPool>(m, "Pool")
      .def(
          "__init__",
          [](AnyPool* self, const std::string& reducer, const std::string& dtype, Shape shape, Shape strides,
             Shape out_strides, std::vector<int> axes, const std::vector<Shape>& windows, bool count_include_pad,
             Index divisor_override, bool truncate, const std::string& indices,
             const std::vector<double>& parameters, const std::string& valid) {
            PoolArguments a{.reducer = reducer, .dtype = dtype_from(dtype.c_str()), .shape = std::move(shape),
                            .in_strides = std::move(strides), .out_strides = std::move(out_strides),
                            .offset_strides = {}, .axes = std::move(axes), .windows = windows_from(windows),
                            .count_include_pad = count_include_pad, .divisor_override = divisor_override,
                            .truncate = truncate, .places = places_from(indices),
                            .parameters = parameters_from(parameters), .masked = valid.starts_with("mask"),
                            .omits_nans = valid.ends_with("omit")};
            check_lengths(a);
            new (self) AnyPool(a);
          },
          "reducer"_a, "dtype"_a, "shape"_a, "strides"_a, "out_strides"_a, "axes"_a, "windows"_a,
          "count_include_pad"_a, "divisor_override"_a, "truncate"_a, "indices"_a, "parameters"_a, "valid"_a)
      .def(
          "run",
          [](const AnyPool& self, std::uintptr_t in, std::uintptr_t out, std::uintptr_t indices, std::uintptr_t mask,
             std::uint64_t seed) {
            nb::gil_scoped_release release;
            self.run(pointer(in), pointer(out), pointer(indices), static_cast<const std::uint8_t*>(pointer(mask)), seed);
          },
          "x"_a, "out"_a, "indices"_a, "mask"_a, "seed"_a)
      .def(
          "work",
          [](const AnyPool& self) {
            return Work{[&self](void* const* at, std::uint64_t seed) {
              self.run(at[0], at[1], at[2], static_cast<const std::uint8_t*>(at[3]), seed);
              return true;
            }};
          },
          nb::keep_alive<0, 1>());

  nb::class_<PoolBackward>(m, "PoolBackward")
      .def(
          "__init__",
          [](PoolBackward* self, const std::string& reducer, const std::string& dtype, Shape shape,
             Shape grad_strides, Shape offset_strides, Shape grad_in_strides, std::vector<int> axes,
             const std::vector<Shape>& windows, bool count_include_pad, Index divisor_override,
             const std::vector<double>& parameters, Shape x_strides, Shape result_strides) {
            PoolArguments a{.reducer = reducer, .dtype = dtype_from(dtype.c_str()), .shape = std::move(shape),
                            .in_strides = std::move(grad_in_strides), .out_strides = std::move(grad_strides),
                            .offset_strides = std::move(offset_strides), .axes = std::move(axes),
                            .windows = windows_from(windows), .count_include_pad = count_include_pad,
                            .divisor_override = divisor_override, .parameters = parameters_from(parameters),
                            .x_strides = std::move(x_strides), .result_strides = std::move(result_strides)};
            check_lengths(a);
            if (!is_floating(a.dtype)) throw std::invalid_argument("gradients need a floating-point dtype");
            new (self) PoolBackward(a);
          },
          "reducer"_a, "dtype"_a, "shape"_a, "grad_strides"_a, "offset_strides"_a, "grad_in_strides"_a, "axes"_a,
          "windows"_a, "count_include_pad"_a, "divisor_override"_a, "parameters"_a, "x_strides"_a,
          "result_strides"_a)
      .def(
          "run",
          [](const PoolBackward& self, std::uintptr_t grad, std::uintptr_t offsets, std::uintptr_t grad_in,
             std::uintptr_t x, std::uintptr_t result) {
            nb::gil_scoped_release release;
            self.run(pointer(grad), pointer(offsets), pointer(grad_in), pointer(x), pointer(result));
          },
          "grad"_a, "offsets"_a, "grad_in"_a, "x"_a, "result"_a)
      .def(
          "work",
          [](const PoolBackward& self) {
            return Work{[&self](void* const* at, std::uint64_t) {
              self.run(at[0], at[1], at[2], at[3], at[4]);
              return true;
            }};
          },
          nb::keep_alive<0, 1>());

  bind_norm(m);
  bind_norm_pool(m);
  bind_unpool(m);
  bind_dropout(m);

  nb::class_<Fractional>(m, "Fractional")
      .def(
          "__init__",
          [](Fractional* self, const std::string& dtype, Shape shape, Shape strides, Shape out_strides,
             std::vector<int> axes, const Shape& kernel_size, const Shape& output_size, const std::string& indices) {
            PoolArguments a{.reducer = "max", .dtype = dtype_from(dtype.c_str()), .shape = std::move(shape),
                            .in_strides = std::move(strides), .out_strides = std::move(out_strides),
                            .offset_strides = {}, .axes = std::move(axes), .windows = {},
                            .places = places_from(indices)};
            if (kernel_size.size() != output_size.size()) throw std::invalid_argument("one size per axis is needed");
            for (std::size_t i = 0; i < kernel_size.size(); ++i)
              a.windows.push_back({.kernel = kernel_size[i], .out = output_size[i], .per_plane = true});
            check_lengths(a);
            for (std::size_t i = 0; i < a.axes.size(); ++i)
              if (a.windows[i].kernel < 1 || a.windows[i].kernel > a.shape[a.axes[i]])
                throw std::invalid_argument("windows must fit the input");
            new (self) Fractional{Pool(a)};
          },
          "dtype"_a, "shape"_a, "strides"_a, "out_strides"_a, "axes"_a, "kernel_size"_a, "output_size"_a,
          "indices"_a)
      .def(
          "run",
          [](const Fractional& self, std::uintptr_t in, std::uintptr_t out, std::uintptr_t indices,
             std::uintptr_t starts) {
            nb::gil_scoped_release release;
            self.pool.run(pointer(in), pointer(out), pointer(indices), nullptr,
                          static_cast<const Index*>(pointer(starts)));
          },
          "x"_a, "out"_a, "indices"_a, "starts"_a);

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
