// One allocation for all of a worker's buffers: measure first, then hand out.
#pragma once

#include <cstdint>

#include "../memory/recycler.hpp"
#include "../types.hpp"

namespace infinitypool {

class Scratch {
 public:
  // plan(scratch) is called twice: once to add up, once to take.
  template <class Plan>
  explicit Scratch(Plan&& plan) : buffer_(measure(plan)), base_(buffer_.data()) {
    plan(*this);
  }

  void* take(Index elements, std::size_t size) {
    const std::size_t at = used_;
    // One line more than asked for: loops may look at a vector beyond the end.
    used_ += (static_cast<std::size_t>(elements) * size + 2 * memory::kAlignment - 1) / memory::kAlignment * memory::kAlignment;
    return base_ ? base_ + at : nullptr;
  }

  Line line(Index elements, std::size_t value, std::size_t place) {
    return {take(elements, value), place ? take(elements, place) : nullptr};
  }

 private:
  Scratch() : buffer_(0), base_(nullptr) {}

  template <class Plan>
  static std::size_t measure(Plan& plan) {
    Scratch dry;
    plan(dry);
    return dry.used_;
  }

  memory::Buffer buffer_;
  char* base_;
  std::size_t used_ = 0;
};

}  // namespace infinitypool
