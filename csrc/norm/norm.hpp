// Normalisation: statistics over regions, then an affine pass. Which elements share a region is all that differs
// between batch, instance, group, layer and root-mean-square norms.
#pragma once

#include <string>
#include <vector>

#include "../table.hpp"
#include "../walkers/layout.hpp"
#include "kernels.hpp"

namespace infinitypool {

struct NormArguments {
  DType dtype, parameter_dtype;
  DType given_dtype;  // of statistics that come from the caller, and of running ones
  Shape sizes;
  Shape x_strides, out_strides, other_strides;  // other: the residual, or the gradient that comes in
  Shape regions, parameters;  // steps in the arrays of regions and of parameters; 0 for axes they do not depend on
  bool centered = true;
  double eps = 0;
  Activation activation = Activation::none;
  double slope = 0;
};

// An axis, or a part of one, with its steps in everything that is visited.
struct NormDim {
  Index size = 1, x = 0, out = 0, other = 0, region = 0, parameter = 0;
};

// Where a piece of work stands: offsets in elements.
struct NormPlace {
  Index x = 0, out = 0, other = 0, region = 0, parameter = 0;
};

NormPlace place_of(const std::vector<NormDim>& dims, Index number);

// Columns beside one another that share a region, against the group's first. Parameters are one, or follow one another.
struct NormSpan {
  Index first, count, region, parameter, parameter_step;
  Index slot;  // of its region among the group's
};

// The tensor as groups × rows × run. A group holds all of its regions' elements. Either the run lies in one region
// (and parameters may change along it), or every column of the run belongs to a region of its own or shares one.
struct NormGeometry {
  std::vector<NormDim> groups, rows;
  Index group_count = 1, row_count = 1, run = 1;
  bool along = false;    // parameters change along the run
  bool columns = false;  // regions do
  Index out_step = 1, other_step = 1;  // of the run; x has 1
  std::vector<NormSpan> spans;
  std::vector<Index> slot_regions;  // of every slot, against the group's
  Index region_count = 1, parameter_count = 1, region_size = 1;
  std::vector<NormDim> parameter_order;  // size and the caller's step; they are used in order of x

  explicit NormGeometry(const NormArguments& a);
  bool groups_have_parameters() const {
    for (const NormDim& d : groups)
      if (d.parameter) return true;
    return false;
  }
};

class Norm {
 public:
  explicit Norm(const NormArguments& a);  // throws std::invalid_argument
  const NormArguments& arguments() const { return a_; }

  struct Running { void* mean; void* var; double momentum; };
  void normalize(const void* x, const void* residual, void* out, void* total, const void* weight, const void* bias,
                 double* mean, double* var, Running running) const;
  void apply(const void* x, void* out, const void* weight, const void* bias, const void* mean, const void* var) const;
  void scale(const void* x, void* out, const double* factors, const double* offsets) const;

  struct Gradient {
    const void* x;
    const void* grad;
    void* out;
    const void* weight;
    const void* bias;
    const void* mean;
    const void* var;
    void* grad_weight = nullptr;
    void* grad_bias = nullptr;
    bool given = false;         // the statistics were constants, of given_dtype
    double* sums = nullptr;     // wanted: per region, of grad and of grad * (x - mean)
    const double* all = nullptr;  // such sums over more than x, and over how many elements a region
    double count = 0;
  };
  void gradient(const Gradient& g) const;

 private:
  friend class NormParameters;
  friend class NormForward;
  friend class NormBackward;
  NormArguments a_;
  NormGeometry geometry_;
  const NormKernels* k_;
  void fill(void* list, Index first, Index n, double value) const;  // accumulators
  // Parameters in the order of x as accumulators, and n double ones from `first` on back to the caller's order.
  void bring_parameters(void* to, const void* from) const;
  void return_parameters(void* to, const double* from, Index first, Index n) const;
  bool ordered() const;  // parameters are the caller's already

  std::size_t size_;    // bytes of an element
  bool direct_;         // elements are accumulators
};

}  // namespace infinitypool
