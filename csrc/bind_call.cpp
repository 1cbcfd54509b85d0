// Calls that need nothing but the core: tensors in, tensors out, without PyTorch's dispatcher.
//
// A small tensor is pooled in a fraction of the time that the way to the kernel takes. A Call finds the plan by
// what the tensors and the arguments are, takes memory for the results and runs the kernel. It answers None for
// whatever is unusual, and the caller takes the long way.
//
// Tensors are read and made through DLPack's C functions, which PyTorch offers by the capsule
// Tensor.__dlpack_c_exchange_api__. Source of the structures: DLPack 1.3, https://github.com/dmlc/dlpack.

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string_view>
#include <unordered_map>

#include "call.hpp"
#include "memory/recycler.hpp"
#include "types.hpp"
#include "walkers/layout.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace infinitypool;

namespace {

// --- DLPack --------------------------------------------------------------------------------

struct DLVersion {
  std::uint32_t major, minor;
};
struct DLDevice {
  std::int32_t type, id;
};
struct DLType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DLManaged {
  DLVersion version;
  void* context;
  void (*deleter)(DLManaged*);
  std::uint64_t flags;
  DLTensor tensor;
};
struct DLExchange {
  DLVersion version;
  DLExchange* previous;
  int (*allocate)(DLTensor*, DLManaged**, void*, void (*)(void*, const char*, const char*));
  int (*managed_from)(void*, DLManaged**);
  int (*to_object)(DLManaged*, void**);
  int (*view)(void*, DLTensor*);  // fills in what a tensor is; owns nothing
  int (*stream)(int, std::int32_t, void**);
};

constexpr std::int32_t kCpu = 1;
constexpr std::uint32_t kMajor = 1, kMinor = 3;
enum Code : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4, kBool = 6 };

DLType type_of(DType dtype) {
  const std::string_view name = name_of(dtype);
  const auto bits = static_cast<std::uint8_t>(8 * size_of(dtype));
  if (name == "bool") return {kBool, 8, 1};
  if (name == "bfloat16") return {kBFloat, 16, 1};
  return {static_cast<std::uint8_t>(name[0] == 'f' ? kFloat : name[0] == 'u' ? kUInt : kInt), bits, 1};
}

bool is_known(DLType t) { return t.lanes == 1 && (t.code <= kFloat || t.code == kBFloat || t.code == kBool); }
bool is_half(DLType t) { return t.bits == 16 && (t.code == kFloat || t.code == kBFloat); }

// --- what PyTorch is asked -----------------------------------------------------------------

// All of it is handed in once, by infinitypool.nn.calls. The answer to a question must be this very object.
struct Question {
  nb::object asked;
  std::vector<nb::object> arguments;
  nb::object answer;
};
struct Variable {  // of a module
  nb::dict names;
  nb::str name;
  nb::object value;
};

struct PyTorch {
  const DLExchange* exchange = nullptr;
  std::vector<nb::object> types;       // of tensors, exactly
  nb::object size;                     // the type of shapes
  nb::object requires_grad;            // the descriptor
  std::vector<Question> quiet;         // nobody looks at operators
  std::vector<Variable> variables;
  std::vector<Question> of_halves;     // where a tensor is of half precision
  std::vector<Question> of_tensors;    // of each tensor
  std::vector<Question> of_offsets;    // of each that may lie at an offset from a null pointer
  nb::object grad_enabled;
  nb::str save_for_backward{"save_for_backward"}, note{"note"}, materialize_grads{"materialize_grads"};
};
PyTorch* pytorch = nullptr;  // lives as long as the process

PyObject* ask(PyObject* asked, PyObject* const* arguments, std::size_t count) {
  PyObject* answer = PyObject_Vectorcall(asked, arguments, count, nullptr);
  if (answer) Py_DECREF(answer);  // True, False, None and small numbers never die
  else PyErr_Clear();
  return answer;
}

// nb::object is a pointer and nothing else, so that a list of them is what a vectorcall takes.
static_assert(sizeof(nb::object) == sizeof(PyObject*));

bool holds(const std::vector<Question>& questions) {
  for (const Question& q : questions) {
    const auto* arguments = reinterpret_cast<PyObject* const*>(q.arguments.data());
    if (ask(q.asked.ptr(), arguments, q.arguments.size()) != q.answer.ptr()) return false;
  }
  return true;
}

bool is_quiet() {
  for (const Variable& v : pytorch->variables)
    if (PyDict_GetItem(v.names.ptr(), v.name.ptr()) != v.value.ptr()) return false;
  return holds(pytorch->quiet);
}

bool holds_of(const std::vector<Question>& questions, PyObject* tensor) {
  for (const Question& q : questions)
    if (ask(q.asked.ptr(), &tensor, 1) != q.answer.ptr()) return false;
  return true;
}

// No tensor is so large. Most memory lies higher, which saves the question.
constexpr std::uintptr_t kHigh = sizeof(void*) == 8 ? std::uintptr_t(1) << 46 : ~std::uintptr_t(0);

// What a tensor is, if it is an ordinary one of the CPU with elements.
bool read(PyObject* object, DLTensor* t) {
  const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  bool known = false;
  for (const nb::object& one : pytorch->types) known |= one.ptr() == type;
  if (!known) return false;
  if (pytorch->exchange->view(object, t) != 0) {
    PyErr_Clear();
    return false;
  }
  if (t->device.type != kCpu || t->data == nullptr || !is_known(t->dtype)) return false;
  for (std::int32_t i = 0; i < t->ndim; ++i)
    if (t->shape[i] == 0) return false;
  return holds_of(pytorch->of_tensors, object) &&
         (reinterpret_cast<std::uintptr_t>(t->data) >= kHigh || holds_of(pytorch->of_offsets, object));
}

bool asks_for_gradient(PyObject* tensor) {
  PyObject* descriptor = pytorch->requires_grad.ptr();
  PyObject* answer =
      Py_TYPE(descriptor)->tp_descr_get(descriptor, tensor, reinterpret_cast<PyObject*>(Py_TYPE(tensor)));
  if (!answer) PyErr_Clear();
  else Py_DECREF(answer);
  return answer != Py_False;
}

// --- keys ----------------------------------------------------------------------------------

// What a call is known by: bytes that tell types as well as values.
class Key {
 public:
  void tensor(const DLTensor& t) {
    put('T');
    put(t.dtype);
    put(t.ndim);
    if (t.ndim > 0) {
      bytes(t.shape, t.ndim * sizeof(std::int64_t));
      bytes(t.strides, t.ndim * sizeof(std::int64_t));
    }
  }
  template <class T>
  void put(T value) {
    bytes(&value, sizeof(T));
  }
  // False for what is none of Python's own numbers, bools, None, texts and lists of those.
  bool value(PyObject* object, int depth = 0) {
    if (object == Py_None || object == Py_True || object == Py_False) {
      put(object == Py_None ? 'N' : object == Py_True ? '1' : '0');
    } else if (PyLong_CheckExact(object)) {
      int overflow = 0;
      put('I');
      put(static_cast<std::int64_t>(PyLong_AsLongLongAndOverflow(object, &overflow)));
      return overflow == 0;
    } else if (PyFloat_CheckExact(object)) {
      put('F');
      put(PyFloat_AS_DOUBLE(object));
    } else if (PyUnicode_CheckExact(object)) {
      Py_ssize_t size = 0;
      const char* text = PyUnicode_AsUTF8AndSize(object, &size);
      if (!text) {
        PyErr_Clear();
        return false;
      }
      put('S');
      put(size);
      bytes(text, static_cast<std::size_t>(size));
    } else if (PyTuple_CheckExact(object) || PyList_CheckExact(object) ||
               reinterpret_cast<PyObject*>(Py_TYPE(object)) == pytorch->size.ptr()) {
      const bool list = PyList_CheckExact(object);
      const Py_ssize_t size = list ? PyList_GET_SIZE(object) : PyTuple_GET_SIZE(object);
      put(list ? 'L' : 'U');
      put(size);
      for (Py_ssize_t i = 0; i < size; ++i)
        if (depth > 4 || !value(list ? PyList_GET_ITEM(object, i) : PyTuple_GET_ITEM(object, i), depth + 1))
          return false;
    } else {
      return false;
    }
    return true;
  }
  bool fits() const { return used_ <= sizeof(at_); }
  std::string_view view() const { return {at_, used_}; }

 private:
  void bytes(const void* from, std::size_t count) {
    if (used_ + count <= sizeof(at_)) std::memcpy(at_ + used_, from, count);
    used_ += count;
  }
  char at_[1024];
  std::size_t used_ = 0;
};

struct Hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// --- results -------------------------------------------------------------------------------

struct Result {
  DLType dtype;
  Shape shape, strides;
  std::size_t bytes;
};

constexpr std::size_t kRecycled = 1 << 20;  // as infinitypool.plan.RECYCLED_BYTES

// A tensor's memory, which lies behind its description or, if it is large, in the recycler.
struct Memory {
  DLManaged managed;  // first: it is what comes back
  std::size_t recycled;

  static Memory* of(std::size_t bytes) {
    const bool large = bytes >= kRecycled;
    auto* memory = static_cast<Memory*>(std::malloc(sizeof(Memory) + (large ? 0 : bytes + memory::kAlignment)));
    if (!memory) return nullptr;
    const auto behind = reinterpret_cast<std::uintptr_t>(memory + 1);
    void* data = reinterpret_cast<void*>((behind + memory::kAlignment - 1) & ~(memory::kAlignment - 1));
    if (large) {
      try {
        data = memory::acquire(bytes);
      } catch (const std::bad_alloc&) {
        std::free(memory);
        return nullptr;
      }
    }
    memory->recycled = large ? bytes : 0;
    memory->managed = {{kMajor, kMinor}, nullptr, forget, 0, {data, {kCpu, 0}, 0, {}, nullptr, nullptr, 0}};
    return memory;
  }
  static void forget(DLManaged* managed) {
    auto* memory = reinterpret_cast<Memory*>(managed);
    if (memory->recycled) memory::release(managed->tensor.data, memory->recycled);
    std::free(memory);
  }
};

// A new tensor and its address; null where there is no memory.
PyObject* make(Result& r, void** address) {
  Memory* memory = Memory::of(r.bytes);
  if (!memory) return nullptr;
  DLTensor& t = memory->managed.tensor;
  t.ndim = static_cast<std::int32_t>(r.shape.size());
  t.dtype = r.dtype;
  t.shape = r.shape.data();
  t.strides = r.strides.data();
  *address = t.data;
  void* object = nullptr;
  if (pytorch->exchange->to_object(&memory->managed, &object) != 0) {
    PyErr_Clear();
    Memory::forget(&memory->managed);
    return nullptr;
  }
  return static_cast<PyObject*>(object);
}

// --- plans ---------------------------------------------------------------------------------

constexpr int kMost = 16;  // tensors of a call, read and made

struct Operand {
  int place;  // of a tensor, results behind those that are read; -1 is a null pointer
  Index offset;
};

// Some work and what it takes: addresses in the order of the operands.
struct Step {
  nb::object owner;  // of the work
  const Work* work;
  std::vector<Operand> operands;
};

struct CallPlan {
  std::vector<Step> steps;
  std::vector<Result> results;
  std::size_t returned;  // how many of the results the caller sees
  nb::object record;     // makes a node of autograd: record(*passed, (plan, *tensors, *results)), see keep
  std::vector<int> passed;  // the places of the tensors that may have a gradient
  std::vector<int> saved;  // the places of what the node saves
  nb::object note;         // what else it knows
  int seed;              // the place of the tensor that holds it, or -1
  bool lengthy;          // long enough for other threads to go on
};

constexpr std::size_t kLengthy = 1 << 14;  // bytes of results

CallPlan plan_from(const std::vector<std::pair<nb::object, std::vector<std::pair<int, Index>>>>& steps,
                   const std::vector<std::tuple<std::string, Shape, Shape>>& results, std::size_t returned,
                   nb::object record, std::vector<int> passed, std::vector<int> saved, nb::object note, int seed) {
  CallPlan plan{{}, {}, returned, std::move(record), std::move(passed), std::move(saved), std::move(note), seed,
                false};
  for (const auto& [work, operands] : steps) {
    Step step{work, nb::cast<const Work*>(work), {}};
    if (operands.size() > kMost) throw std::invalid_argument("too many operands");
    for (const auto& [place, offset] : operands) step.operands.push_back({place, offset});
    plan.steps.push_back(std::move(step));
  }
  std::size_t bytes = 0;
  for (const auto& [name, shape, strides] : results) {
    const DType dtype = dtype_from(name.c_str());
    if (shape.size() != strides.size()) throw std::invalid_argument("one stride per axis is needed");
    Index last = 0;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] < 1 || strides[i] < 0) throw std::invalid_argument("results have elements");
      last += (shape[i] - 1) * strides[i];
    }
    plan.results.push_back({type_of(dtype), shape, strides, size_of(dtype) * static_cast<std::size_t>(last + 1)});
    bytes += plan.results.back().bytes;
  }
  if (results.size() > kMost || plan.passed.size() > kMost || plan.saved.size() > 2 * kMost || returned < 1 || returned > results.size())
    throw std::invalid_argument("not the results of a call");
  plan.lengthy = bytes >= kLengthy;
  return plan;
}

// --- calls ---------------------------------------------------------------------------------

constexpr std::size_t kPlans = 4096;

// What was planned for a key: nothing where the long way is to be taken.
struct Planned {
  nb::object owner;
  CallPlan* plan = nullptr;
};
using Plans = std::unordered_map<std::string, Planned, Hash, std::equal_to<>>;

struct Call {
  PyObject_HEAD
  vectorcallfunc entry;
  PyObject* planner;  // planner(recording, tensors, arguments) -> CallPlan or None
  Py_ssize_t tensors;
  Plans* plans;
};

// What the tensors of a call are, and whether a gradient is to be recorded.
struct Situation {
  DLTensor tensors[kMost];
  bool given[kMost];
  bool recording = false;
  std::uint16_t asking = 0;  // the tensors that ask for a gradient, a bit each
};

bool situation_of(PyObject* const* arguments, Py_ssize_t count, Situation* s) {
  static_assert(kMost <= 16);
  bool halves = false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    s->given[i] = arguments[i] != Py_None;
    if (!s->given[i]) continue;
    if (!read(arguments[i], &s->tensors[i])) return false;
    halves |= is_half(s->tensors[i].dtype);
    if (asks_for_gradient(arguments[i])) s->asking |= static_cast<std::uint16_t>(1u << i);
  }
  if (!s->given[0] || !is_quiet() || (halves && !holds(pytorch->of_halves))) return false;
  s->recording = s->asking && ask(pytorch->grad_enabled.ptr(), nullptr, 0) != Py_False;
  return true;
}

bool fits(const CallPlan& plan, const Situation& s, Py_ssize_t tensors) {
  const auto places = tensors + static_cast<Py_ssize_t>(plan.results.size());
  for (const Step& step : plan.steps)
    for (const Operand& o : step.operands)
      if (o.place < -1 || o.place >= places) return false;
  for (int place : plan.saved)
    if (place < 0 || place >= places) return false;
  for (int place : plan.passed)
    if (place < 0 || place >= tensors) return false;
  return plan.seed < 0 || (plan.seed < tensors && s.given[plan.seed] && s.tensors[plan.seed].dtype.bits == 64);
}

nb::object tuple_of(PyObject* first, PyObject* const* rest, Py_ssize_t count) {
  const Py_ssize_t before = first ? 1 : 0;
  PyObject* tuple = PyTuple_New(before + count);
  if (!tuple) throw nb::python_error();
  for (Py_ssize_t i = 0; i < before + count; ++i) {
    PyObject* item = i < before ? first : rest[i - before];
    Py_INCREF(item);
    PyTuple_SET_ITEM(tuple, i, item);
  }
  return nb::steal(tuple);
}

// The plan, made where it is not known yet.
Planned plan_of(Call* self, PyObject* const* arguments, Py_ssize_t count, const Situation& s) {
  Key key;
  key.put(s.recording ? s.asking : std::uint16_t{0});
  for (Py_ssize_t i = 0; i < self->tensors; ++i)
    if (s.given[i]) key.tensor(s.tensors[i]);
    else key.put('N');
  for (Py_ssize_t i = self->tensors; i < count; ++i)
    if (!key.value(arguments[i])) return {};
  if (!key.fits()) return {};
  if (auto found = self->plans->find(key.view()); found != self->plans->end()) return found->second;
  Planned planned;
  planned.owner = nb::handle(self->planner)(nb::bool_(s.recording), tuple_of(nullptr, arguments, self->tensors),
                                            tuple_of(nullptr, arguments + self->tensors, count - self->tensors));
  if (!planned.owner.is_none()) {
    planned.plan = nb::cast<CallPlan*>(planned.owner);
    if (!fits(*planned.plan, s, self->tensors)) throw std::invalid_argument("the plan is for another call");
  }
  Plans forgotten;  // what goes may call back
  if (self->plans->size() >= kPlans) std::swap(forgotten, *self->plans);
  self->plans->insert_or_assign(std::string(key.view()), planned);
  return planned;
}

bool run(const CallPlan& plan, void* const* addresses, std::uint64_t seed) {
  for (const Step& step : plan.steps) {
    void* at[kMost];
    for (std::size_t i = 0; i < step.operands.size(); ++i) {
      const Operand& o = step.operands[i];
      void* address = o.place < 0 ? nullptr : addresses[o.place];
      at[i] = address ? static_cast<char*>(address) + o.offset : nullptr;  // None stays a null pointer
    }
    if (!step.work->run(at, seed)) return false;
  }
  return true;
}

// The results as new references in made; false for the long way.
bool compute(CallPlan& plan, const Situation& s, Py_ssize_t tensors, PyObject** made) {
  void* addresses[2 * kMost] = {};
  for (Py_ssize_t i = 0; i < tensors; ++i)
    if (s.given[i]) addresses[i] = static_cast<char*>(s.tensors[i].data) + s.tensors[i].byte_offset;
  for (std::size_t i = 0; i < plan.results.size(); ++i)
    if (!(made[i] = make(plan.results[i], &addresses[tensors + static_cast<Py_ssize_t>(i)]))) return false;
  const std::uint64_t seed = plan.seed < 0 ? 0 : *static_cast<const std::uint64_t*>(addresses[plan.seed]);
  if (!plan.lengthy) return run(plan, addresses, seed);
  nb::gil_scoped_release release;
  return run(plan, addresses, seed);
}

nb::object answer(const Planned& planned, bool recording, PyObject* const* tensors, Py_ssize_t count,
                  PyObject* const* made) {
  const CallPlan& plan = *planned.plan;
  if (!recording) {
    if (plan.returned > 1) return tuple_of(nullptr, made, static_cast<Py_ssize_t>(plan.returned));
    return nb::borrow(made[0]);
  }
  PyObject* all[2 * kMost];
  std::copy(tensors, tensors + count, all);
  std::copy(made, made + plan.results.size(), all + count);
  nb::object kept = tuple_of(planned.owner.ptr(), all, count + static_cast<Py_ssize_t>(plan.results.size()));
  PyObject* arguments[kMost + 1];
  std::size_t passed = 0;
  for (int place : plan.passed) arguments[passed++] = tensors[place];
  arguments[passed++] = kept.ptr();
  PyObject* result = PyObject_Vectorcall(plan.record.ptr(), arguments, passed, nullptr);
  if (!result) throw nb::python_error();
  return nb::steal(result);
}

PyObject* plan_type = nullptr;

// What a torch.autograd.Function has for its forward: keep(ctx, *passed, (plan, *tensors, *results)) saves what the
// plan says and hands the results out.
PyObject* keep(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  try {
    if (count < 2 || !PyTuple_CheckExact(arguments[count - 1])) throw std::invalid_argument("not from a native call");
    nb::handle context = arguments[0];
    PyObject* kept = arguments[count - 1];
    if (PyTuple_GET_SIZE(kept) < 2 || reinterpret_cast<PyObject*>(Py_TYPE(PyTuple_GET_ITEM(kept, 0))) != plan_type)
      throw std::invalid_argument("not from a native call");
    const auto* plan = nb::inst_ptr<CallPlan>(nb::handle(PyTuple_GET_ITEM(kept, 0)));
    const Py_ssize_t places = PyTuple_GET_SIZE(kept) - 1;
    const Py_ssize_t tensors = places - static_cast<Py_ssize_t>(plan->results.size());
    PyObject** all = &PyTuple_GET_ITEM(kept, 1);
    if (tensors < 0 || plan->saved.size() > 2 * kMost) throw std::invalid_argument("not from a native call");
    PyObject** results = all + tensors;
    if (!plan->saved.empty()) {
      PyObject* saved[2 * kMost + 1] = {context.ptr()};
      std::size_t n = 1;
      for (int place : plan->saved) {
        if (place >= places) throw std::invalid_argument("not from a native call");
        saved[n++] = all[place];
      }
      nb::object none = nb::steal(PyObject_VectorcallMethod(pytorch->save_for_backward.ptr(), saved, n, nullptr));
      if (!none.is_valid()) throw nb::python_error();
    }
    nb::setattr(context, pytorch->note, plan->note);
    if (plan->returned == 1) return nb::borrow(results[0]).release().ptr();
    nb::setattr(context, pytorch->materialize_grads, nb::handle(Py_False));
    return tuple_of(nullptr, results, static_cast<Py_ssize_t>(plan->returned)).release().ptr();
  } catch (nb::python_error& e) {
    e.restore();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}
PyMethodDef keep_method = {"keep", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(keep)), METH_FASTCALL,
                           nullptr};

PyObject* call(PyObject* object, PyObject* const* arguments, std::size_t flags, PyObject* names) {
  auto* self = reinterpret_cast<Call*>(object);
  const Py_ssize_t count = PyVectorcall_NARGS(flags);
  Situation s;
  if (!pytorch || names || count < self->tensors || !situation_of(arguments, self->tensors, &s)) Py_RETURN_NONE;
  PyObject* made[kMost] = {};
  PyObject* result = nullptr;
  try {
    const Planned planned = plan_of(self, arguments, count, s);
    if (planned.plan && compute(*planned.plan, s, self->tensors, made)) {
      result = answer(planned, s.recording, arguments, self->tensors, made).release().ptr();
    } else {
      Py_INCREF(Py_None);
      result = Py_None;
    }
  } catch (nb::python_error& e) {
    e.restore();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  for (PyObject* one : made) Py_XDECREF(one);
  return result;
}

PyObject* new_call(PyTypeObject* type, PyObject* arguments, PyObject* names) {
  static const char* known[] = {"planner", "tensors", nullptr};
  PyObject* planner;
  Py_ssize_t tensors;
  if (!PyArg_ParseTupleAndKeywords(arguments, names, "On", const_cast<char**>(known), &planner, &tensors))
    return nullptr;
  if (tensors < 1 || tensors > kMost) {
    PyErr_SetString(PyExc_ValueError, "a call has 1 to 16 tensors");
    return nullptr;
  }
  auto* self = reinterpret_cast<Call*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->entry = call;
  Py_INCREF(planner);
  self->planner = planner;
  self->tensors = tensors;
  self->plans = new Plans;
  return reinterpret_cast<PyObject*>(self);
}

void delete_call(PyObject* object) {
  auto* self = reinterpret_cast<Call*>(object);
  PyTypeObject* type = Py_TYPE(object);
  delete self->plans;
  Py_XDECREF(self->planner);
  type->tp_free(object);
  Py_DECREF(type);
}

PyMemberDef call_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Call, entry), READONLY, nullptr}, {nullptr, 0, 0, 0, nullptr}};
PyType_Slot call_slots[] = {{Py_tp_new, reinterpret_cast<void*>(new_call)},
                            {Py_tp_dealloc, reinterpret_cast<void*>(delete_call)},
                            {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                            {Py_tp_members, call_members},
                            {0, nullptr}};
PyType_Spec call_type = {"infinitypool._core.Call", sizeof(Call), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, call_slots};

std::vector<Question> questions_from(const nb::list& pairs) {
  std::vector<Question> list;
  for (nb::handle entry : pairs) {
    Question q{nb::object(entry[0]), {}, nb::object(entry[2])};
    for (nb::handle argument : nb::tuple(entry[1])) q.arguments.push_back(nb::borrow(argument));
    list.push_back(std::move(q));
  }
  return list;
}

}  // namespace

void bind_call(nb::module_& m) {
  nb::class_<Work>(m, "Work");
  nb::class_<CallPlan>(m, "CallPlan")
      .def(
          "__init__",
          [](CallPlan* self, const std::vector<std::pair<nb::object, std::vector<std::pair<int, Index>>>>& steps,
             const std::vector<std::tuple<std::string, Shape, Shape>>& results, std::size_t returned, nb::object record,
             std::vector<int> passed, std::vector<int> saved, nb::object note, int seed) {
            new (self) CallPlan(plan_from(steps, results, returned, std::move(record), std::move(passed),
                                          std::move(saved), std::move(note), seed));
          },
          "steps"_a, "results"_a, "returned"_a, "record"_a = nb::none(), "passed"_a = std::vector<int>(),
          "saved"_a = std::vector<int>(), "note"_a = nb::none(), "seed"_a = -1);
  plan_type = nb::type<CallPlan>().ptr();
  nb::object type = nb::steal(PyType_FromSpec(&call_type));
  if (!type.is_valid()) throw nb::python_error();
  m.attr("Call") = type;
  nb::object function = nb::steal(PyCFunction_NewEx(&keep_method, nullptr, nullptr));
  if (!function.is_valid()) throw nb::python_error();
  m.attr("keep") = function;
  // Whether calls work from now on: not with another major version of DLPack.
  m.def(
      "set_up_calls",
      [](nb::capsule exchange, const nb::list& types, nb::object size, nb::object requires_grad, const nb::list& quiet,
         const nb::list& variables, const nb::list& of_halves, const nb::list& of_tensors, const nb::list& of_offsets,
         nb::object grad_enabled) {
        const auto* found =
            static_cast<const DLExchange*>(PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api"));
        if (!found) throw nb::python_error();
        if (found->version.major != kMajor || !found->view || !found->to_object) return false;
        auto* set = new PyTorch;
        set->exchange = found;
        for (nb::handle t : types) set->types.push_back(nb::borrow(t));
        set->size = std::move(size);
        set->requires_grad = std::move(requires_grad);
        set->quiet = questions_from(quiet);
        for (nb::handle v : variables)
          set->variables.push_back({nb::cast<nb::dict>(v[0]), nb::cast<nb::str>(v[1]), nb::object(v[2])});
        set->of_halves = questions_from(of_halves);
        set->of_tensors = questions_from(of_tensors);
        set->of_offsets = questions_from(of_offsets);
        set->grad_enabled = std::move(grad_enabled);
        pytorch = set;
        return true;
      },
      "exchange"_a, "types"_a, "size"_a, "requires_grad"_a, "quiet"_a, "variables"_a, "of_halves"_a, "of_tensors"_a,
      "of_offsets"_a, "grad_enabled"_a);
}
