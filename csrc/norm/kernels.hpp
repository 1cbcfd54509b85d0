// What the norms' walker may call: loops over runs and columns of accumulators, one set for float and one for
// double, compiled once per instruction set.
#pragma once

#include "../types.hpp"

namespace infinitypool {

enum class Activation : std::uint8_t { none, relu, leaky_relu, silu, gelu };

inline constexpr int kFloats = 4;  // float64 to bfloat16, in the order of DType

// A rectangle of accumulators: rows of `columns` contiguous ones.
struct Tile {
  Index rows, columns;
};

// A row's gradient and input, and how the input is normalised.
struct NormRow {
  const void* g;
  const void* x;
  double center, scale, shift;
};
inline constexpr int kNormFew = 8;
inline constexpr int kNormRows = 4;  // added in one pass over their sums

// Vectors along the columns of a group: center, scale and shift forward; backward a, b, center and d.
struct NormKernels {
  std::size_t size = 0;
  double at(const void* list, Index i, double none) const {  // of a list, or `none` where there is no list
    if (!list) return none;
    return size == sizeof(float) ? double(static_cast<const float*>(list)[i]) : static_cast<const double*>(list)[i];
  }
  void (*load[kFloats])(void* dst, const void* src, Index n, Index step) = {};
  void (*store[kFloats])(void* dst, const void* src, Index n) = {};
  void (*add)(void* x, const void* y, Index n) = nullptr;  // x += y

  // Mean and sum of squared deviations of at most kBlock elements; not centered, 0 and the sum of squares. For up to
  // kNormFew rows, `pitch` apart: one's sums do not wait for the other's division.
  void (*moments)(const void* x, Index pitch, Index n, int rows, bool centered, double* mean, double* square) = nullptr;
  // The same for every column, merged into what `before` rows have given.
  void (*column_moments)(const void* x, Index pitch, Tile tile, bool centered, Index before, double* mean,
                         double* square) = nullptr;

  // Two estimates over the same columns, of `before` and of `rows` rows; and columns of `rows` rows each, as one.
  void (*merge_rows)(double* mean, double* square, const double* more_mean, const double* more_square, Index n,
                     bool centered, double before, double rows) = nullptr;
  void (*merge_span)(const double* mean, const double* square, Index n, bool centered, double rows, double* to_mean,
                     double* to_square) = nullptr;

  // y = (x - center) * scale + shift
  void (*affine)(void* y, const void* x, Index n, double center, double scale, double shift) = nullptr;
  void (*affine_columns)(void* y, Index y_pitch, const void* x, Index x_pitch, Tile tile, const void* center,
                         const void* scale, const void* shift) = nullptr;
  // y = ((x - center) * scale + shift) * weight + bias
  void (*affine_along)(void* y, const void* x, Index n, double center, double scale, double shift,
                       const void* weight, const void* bias) = nullptr;
  void (*activate)(void* y, Index n, Activation activation, double slope) = nullptr;
  // g *= the activation's derivative at z
  void (*deactivate)(void* g, const void* z, Index n, Activation activation, double slope) = nullptr;

  // The sums of g and of g * (x - center), of at most kBlock elements
  void (*sums)(const void* g, const void* x, Index n, double center, double* sum) = nullptr;
  void (*column_sums)(const void* g, Index g_pitch, const void* x, Index x_pitch, Tile tile, const void* center,
                      double* sum_g, double* sum_gx) = nullptr;  // added to
  void (*sums_along)(const void* g, const void* x, Index n, double center, const void* weight, double* sum) = nullptr;
  // weight += g * ((x - center) * scale + shift), bias += g, for one row after another
  void (*parameters_along)(void* weight, void* bias, const NormRow* rows, int count, Index n) = nullptr;
  void (*flush)(double* dst, void* src, Index n, bool first) = nullptr;  // dst += src, or = if first; src = 0

  // y = a * g - b * (x - center) - d
  void (*gradient)(void* y, const void* g, const void* x, Index n, double a, double b, double center,
                   double d) = nullptr;
  void (*gradient_columns)(void* y, Index y_pitch, const void* g, Index g_pitch, const void* x, Index x_pitch,
                           Tile tile, const void* a, const void* b, const void* center, const void* d) = nullptr;
  void (*gradient_along)(void* y, const void* g, const void* x, Index n, double a, double b, double center, double d,
                         const void* weight) = nullptr;
};

// Loops that sum in accumulators take no more at a time: half of a core's first cache.
inline constexpr Index kBlock = 4096;

struct NormTable {
  const char* name;
  NormKernels single, twice;  // float and double
};

const NormTable& norm_isa();  // of the instruction set that isa() chose

}  // namespace infinitypool
