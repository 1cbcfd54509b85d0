#include "call.hpp"

#include <stdexcept>

namespace infinitypool {

extern const NormTable norm_baseline;
#if defined(INFINITYPOOL_X86)
extern const NormTable norm_avx2, norm_avx512;
#elif defined(INFINITYPOOL_ARM)
extern const NormTable norm_neon;
#endif

const NormTable& norm_isa() {
  static const NormTable& chosen = of_isa<NormTable>({&norm_baseline,
#if defined(INFINITYPOOL_X86)
                                                      &norm_avx2, &norm_avx512
#elif defined(INFINITYPOOL_ARM)
                                                      &norm_neon
#endif
  });
  return chosen;
}

NormParameters::NormParameters(const NormArguments& a, const NormGeometry& g, const NormKernels& k, const void* weight,
                               const void* bias)
    : weight(weight), bias(bias), room_([&] {
        bool ordered = size_of(a.parameter_dtype) == k.size;
        Index step = 1;
        for (std::size_t i = g.parameter_order.size(); i-- > 0; step *= g.parameter_order[i].size)
          ordered &= g.parameter_order[i].parameter == step;
        return ordered ? 0 : 2 * std::size_t(g.parameter_count) * k.size;
      }()) {
  if (room_.bytes() == 0) return;
  const auto bring = [&](const void*& list, Index number) {
    if (!list) return;
    void* to = advance(room_.data(), number * g.parameter_count, k.size);
    std::vector<NormDim> outer = g.parameter_order;
    const NormDim last = outer.empty() ? NormDim{} : outer.back();
    if (!outer.empty()) outer.pop_back();
    for (Index i = 0; i < g.parameter_count; i += last.size)
      k.load[int(a.parameter_dtype)](advance(to, i, k.size),
                                     advance(list, place_of(outer, i / last.size).parameter, size_of(a.parameter_dtype)),
                                     last.size, last.parameter);
    list = to;
  };
  bring(this->weight, 0);
  bring(this->bias, 1);
}

Norm::Norm(const NormArguments& a)
    : a_(a), geometry_(a), k_(a.dtype == DType::float64 ? &norm_isa().twice : &norm_isa().single),
      size_(size_of(a.dtype)), direct_(size_ == k_->size) {
  for (const DType dtype : {a.dtype, a.parameter_dtype, a.given_dtype})
    if (!is_floating(dtype)) throw std::invalid_argument("norms need floating-point dtypes");
}

}  // namespace infinitypool
