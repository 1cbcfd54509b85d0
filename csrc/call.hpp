// What a native call runs: a plan's work, given the addresses of all that it reads and writes.
#pragma once

#include <cstdint>
#include <functional>

namespace infinitypool {

struct Work {
  // The addresses, in the order of the plan's own method, and what a draw starts from. False where the
  // call is to be made again the long way, which finds out what is wrong.
  std::function<bool(void* const* at, std::uint64_t seed)> run;
};

}  // namespace infinitypool
