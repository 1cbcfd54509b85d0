// Max unpooling: zeros, and every value at the place it came from; and the gradient of that.
#pragma once

#include "layout.hpp"

namespace infinitypool {

struct UnpoolArguments {
  Index item_size;  // bytes are moved, whatever they mean
  Shape shape;      // of the values to scatter
  Shape in_strides, index_strides;
  Shape out_shape, out_strides;
  std::vector<int> axes;
};

// An index is a position in the flattened plane of results, row by row over `axes`. Of equal ones the
// last in row order wins. Nothing is written unless every index lies inside.
class Unpool {
 public:
  explicit Unpool(const UnpoolArguments& a);  // throws std::invalid_argument

  // Both return -1, or where the first index out of range stands, in C order.
  Index run(const void* x, const Index* indices, void* out) const;
  Index gather(const void* grad, const Index* indices, void* grad_in) const;  // zero for those that lost

 private:
  template <class T, bool kGradient>
  friend class UnpoolWorker;
  struct Range { Index low, high; };
  struct Piece { Strides at; Index columns; };
  Piece piece(Index number) const;
  Index place(Index position) const;  // its offset
  bool dense() const { return spots_.size() == 1; }
  Range range(const Index* indices, Index columns) const;
  Index first_bad(const Index* indices) const;
  template <bool kGradient>
  Index walk(const void* values, const Index* indices, const void* out) const;
  template <class T, bool kGradient>
  void move(const void* values, const Index* indices, const void* out, const Range* ranges, int threads) const;

  Shape shape_, index_strides_;
  Index item_size_, inputs_ = 1, plane_ = 1, elements_;
  Layout layout_;            // tensors: values, indices, results
  std::vector<Dim> lines_;   // the pooled axes of values and indices; those behind one another are one
  std::vector<Dim> spots_;   // the same for the results
  Index inner_block_, piece_columns_, line_pieces_, pieces_ = 1;  // pieces: of a unit's values
};

}  // namespace infinitypool
