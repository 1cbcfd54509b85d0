#include "call.hpp"

#include <stdexcept>

namespace infinitypool {

INFINITYPOOL_TABLE_OF_ISA(NormTable, norm)

NormParameters::NormParameters(const Norm& norm, const void* weight, const void* bias)
    : weight(weight), bias(bias),
      room_(norm.ordered() ? 0 : 2 * std::size_t(norm.geometry_.parameter_count) * norm.k_->size) {
  if (norm.ordered()) return;
  const auto bring = [&](const void*& list, Index number) {
    if (!list) return;
    void* to = advance(room_.data(), number * norm.geometry_.parameter_count, norm.k_->size);
    norm.bring_parameters(to, list);
    list = to;
  };
  bring(this->weight, 0);
  bring(this->bias, 1);
}

bool Norm::ordered() const {
  bool ordered = size_of(a_.parameter_dtype) == k_->size;
  Index step = 1;
  for (std::size_t i = geometry_.parameter_order.size(); i-- > 0; step *= geometry_.parameter_order[i].size)
    ordered &= geometry_.parameter_order[i].parameter == step;
  return ordered;
}

void Norm::bring_parameters(void* to, const void* from) const {
  std::vector<NormDim> outer = geometry_.parameter_order;
  const NormDim last = outer.empty() ? NormDim{.parameter = 1} : outer.back();
  if (!outer.empty()) outer.pop_back();
  struct Lines {
    const std::function<void(Index)>& line;
    Index count, total;
    void run(std::size_t i) {
      for (Index l = Index(i) * count; l < std::min(total, (Index(i) + 1) * count); ++l) line(l);
    }
  };
  const std::function<void(Index)> line = [&](Index l) {
    k_->load[int(a_.parameter_dtype)](advance(to, l * last.size, k_->size),
                                      advance(from, place_of(outer, l).parameter, size_of(a_.parameter_dtype)),
                                      last.size, last.parameter);
  };
  const Index lines = geometry_.parameter_count / last.size, count = std::max<Index>(1, kParallelElements / last.size);
  const int threads = geometry_.parameter_count < kParallelElements ? 1 : thread_count();
  parallel(std::size_t((lines + count - 1) / count), threads, [&] { return Lines{line, count, lines}; });
}

void Norm::return_parameters(void* to, const double* from, Index first, Index n) const {
  if (!to) return;
  const std::size_t size = size_of(a_.parameter_dtype);
  std::vector<NormDim> outer = geometry_.parameter_order;
  const NormDim last = outer.empty() ? NormDim{.parameter = 1} : outer.back();
  if (!outer.empty()) outer.pop_back();
  constexpr Index kRoom = 512;
  char room[kRoom * sizeof(double)];
  while (n > 0) {
    const Index at = first % last.size, m = std::min({n, last.size - at, kRoom});
    char* line = advance(to, place_of(outer, first / last.size).parameter + at * last.parameter, size);
    void* dense = last.parameter == 1 ? line : room;
    norm_isa().twice.store[int(a_.parameter_dtype)](dense, from, m);
    if (dense == room)
      for (Index i = 0; i < m; ++i) std::memcpy(advance(line, i * last.parameter, size), advance(room, i, size), size);
    first += m, from += m, n -= m;
  }
}

void Norm::fill(void* list, Index first, Index n, double value) const {
  if (k_->size == sizeof(float)) std::fill_n(static_cast<float*>(list) + first, n, float(value));
  else std::fill_n(static_cast<double*>(list) + first, n, value);
}

Norm::Norm(const NormArguments& a)
    : a_(a), geometry_(a), k_(a.dtype == DType::float64 ? &norm_isa().twice : &norm_isa().single),
      size_(size_of(a.dtype)), direct_(size_ == k_->size) {
  for (const DType dtype : {a.dtype, a.parameter_dtype, a.given_dtype})
    if (!is_floating(dtype)) throw std::invalid_argument("norms need floating-point dtypes");
}

}  // namespace infinitypool
