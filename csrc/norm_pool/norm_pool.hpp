// Normalisation with given statistics, an activation and pooling, in one pass over memory.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "../norm/norm.hpp"
#include "../walkers/pool.hpp"

namespace infinitypool {

// Block by block: what the norm makes of a block stays in the cache, where the pooling finds it.
class NormPool {
 public:
  // Of one tensor (N, C, pooled axes...), with a region for each channel.
  NormPool(const NormArguments& norm, const PoolArguments& pool);  // throws std::invalid_argument
  NormPool(const NormPool&) = delete;
  NormPool& operator=(const NormPool&) = delete;
  void run(const void* x, void* out, const void* weight, const void* bias, const void* mean, const void* var) const;

 private:
  struct Plans {
    Norm norm;
    Pool pool;
  };
  struct Piece {
    Index first, size;
  };
  // Lines of the first pooled axis, and the results that need no others.
  struct Band {
    Piece lines, results;
    Index before, after;
  };
  struct Block {
    Index x, out, channel;
    const Plans* plans;
  };

  std::vector<Band> bands(Index results) const;
  const Plans* plans_for(Index samples, Index channels, const Band& band);

  NormArguments norm_;
  PoolArguments pool_;
  std::vector<std::size_t> order_;  // of the axes in memory, innermost first
  std::map<Shape, std::unique_ptr<Plans>> plans_;
  std::vector<Block> blocks_;
  std::size_t room_ = 0;  // bytes of the largest block
};

}  // namespace infinitypool
