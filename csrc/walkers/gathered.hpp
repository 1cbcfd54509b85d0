// The walkers of reducers that see whole windows: forward, and the gradients that weigh every element.
#pragma once

#include <map>

#include "pool.hpp"

namespace infinitypool {

// What both directions know of the windows and of how a line of inputs lies while it is worked on.
struct GatheredPlan {
  const GatheredKernels* kernels = nullptr;
  std::vector<Axis> axes;
  Layout layout;
  Parameters parameters;
  Index window = 1, elements = 0, inner_block = 1;
  bool masked = false, omits = false;

  // Lines that are strided along the last axis are split into phases, so that a tap of all windows is one
  // run; long inner runs are runs already.
  bool split = false, together = false;  // together: a tap of a whole line is one run
  bool direct = false;                   // input lines are used where they lie
  Index columns = 1;                     // outputs of a line at a time
  Index row = 0, column_step = 1;        // elements of a line while it is worked on, and between two windows
  std::vector<Index> phases, phase_of;   // the phases that taps use; which of them a place in the stride is
  Index phase_length = 0;
  std::vector<Index> held;               // lines kept along each outer axis
  Index slots = 1;

  void plan(const PoolArguments& a, const std::array<Shape, kTensors>& strides, int lead, bool whole_lines);
  const Axis& last() const { return axes.back(); }
  int outer_axes() const { return static_cast<int>(axes.size()) - 1; }
  Index stretch() const { return split ? last().stride : 1; }
  Index shift(Index tap) const {  // where it lies from its window's start
    const Index place = tap * last().dilation;
    if (!split) return place * inner_block;
    return phase_of[place % last().stride] * phase_length + place / last().stride * inner_block;
  }
};

struct Network {
  std::vector<Exchange> exchanges;
};
Network network_of(Index count, Index low, Index high);  // sorts what has these ranks

class Gathered {
 public:
  explicit Gathered(const PoolArguments& a);
  void run(const void* in, void* out, void* places, const std::uint8_t* mask, std::uint64_t seed) const;

 private:
  friend class GatheredWorker;
  GatheredPlan plan_;
  Places places_ = Places::none;
  std::size_t place_size_ = 0;
  bool stream_ = false;
  Network network_;  // of a whole window
};

// The gradient of reducers that weigh every element of a window by itself.
class Weigh {
 public:
  explicit Weigh(const PoolArguments& a);
  void run(const void* grad, void* grad_in, const void* x, const void* result) const;

 private:
  friend class WeighWorker;
  GatheredPlan plan_;
  Index lines_ = 1, block_ = 1;  // lines of one input of the first axis; inputs worked on at a time
  bool stream_ = false;
};

}  // namespace infinitypool
