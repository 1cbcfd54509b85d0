// Every tensor seen as [outer, pooled axes…, inner].
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../types.hpp"
#include "../windows/window.hpp"

namespace infinitypool {

using Shape = std::vector<Index>;

// Strides of the tensors that a walk visits together: what is read, what is written, offsets and the like.
inline constexpr int kTensors = 4;
using Strides = std::array<Index, kTensors>;

struct Dim {
  Index size = 1;
  Strides stride{};
};

inline constexpr Index kInnerBlock = 4096;  // elements of a long inner run handled at a time

struct Layout {
  std::vector<Dim> outer;
  Dim inner;                      // 1 for planes, the channels for channels last
  std::vector<Strides> axes;      // per pooled axis, in order
  bool line_axis_added = false;   // the inner run is a line of its own, pooled by a window of one

  Index outer_count() const;
  Index inner_block() const { return line_axis_added && inner.size > kInnerBlock ? kInnerBlock : inner.size; }
  Strides outer_offset(Index unit) const;
};

// axes ascending. The innermost pooled axis of a C-ordered tensor stays innermost (planes); otherwise
// a contiguous run of unpooled elements does (channels last). Tensor `lead` decides, unless planes must
// be apart.
Layout layout_of(const Shape& shape, const std::array<Shape, kTensors>& strides, const std::vector<int>& axes,
                 int lead, bool apart = false);

// A walk of one pooled axis gets an outer one too, with windows of one: an unpooled axis if there is any.
void take_outer_axis(Layout& layout, std::vector<Axis>& axes);

// Few planes one above the other, none of whose windows crosses a border, are walked as one high plane.
void stack_planes(Layout& layout, std::vector<Axis>& axes);

struct Task { Index unit, first, last, inner_first, inner_last; };

// Independent pieces for the threads: outer index × band of the first pooled axis × block of the
// inner run. A band reads axis_halo more than its own. Results do not depend on the borders.
std::vector<Task> split(const Layout& layout, Index axis_size, Index axis_halo, Index inner_block,
                        int threads);

int thread_count();         // what a parallel call would use now
void set_thread_count(int n);
std::string openmp_runtime();  // the library that runs our threads

}  // namespace infinitypool
