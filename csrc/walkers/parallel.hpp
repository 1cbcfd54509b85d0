// How the walkers use threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "layout.hpp"

namespace infinitypool {

// Below this many elements a second thread costs more than it brings.
inline constexpr Index kParallelElements = Index(1) << 15;

inline void drain_stores() {  // streamed stores are not ordered by a thread's end
#if defined(__x86_64__) || defined(_M_X64)
  _mm_sfence();
#endif
}

// Each thread makes one Worker and runs pieces of work, by their numbers, until none is left. How they are
// cut may depend on the number of threads; their results do not.
template <class MakeWorker>
void parallel(std::size_t count, int threads, MakeWorker make) {
  std::atomic<std::size_t> next{0};
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr error;
  // A few at a time, so that one thread's outputs lie together.
  const std::size_t batch = std::max<std::size_t>(1, count / (8 * std::size_t(threads)));
  auto work = [&] {
    try {
      auto worker = make();
      for (std::size_t first; (first = next.fetch_add(batch)) < count;)
        for (std::size_t i = first; i < std::min(first + batch, count); ++i) worker.run(i);
      if constexpr (requires { worker.finish(); }) worker.finish();  // what is left to the end
      drain_stores();
    } catch (...) {
      if (!failed.test_and_set()) error = std::current_exception();
    }
  };
#if defined(_OPENMP)
  if (threads > 1 && count > 1) {
#pragma omp parallel num_threads(threads)
    work();
  } else {
    work();
  }
#else
  work();
#endif
  if (error) std::rethrow_exception(error);
}

template <class MakeWorker>
void parallel(const std::vector<Task>& tasks, int threads, MakeWorker make) {
  struct OfTasks {
    decltype(make()) worker;
    const std::vector<Task>& tasks;
    void run(std::size_t i) { worker.run(tasks[i]); }
    void finish() {
      if constexpr (requires { worker.finish(); }) worker.finish();
    }
  };
  parallel(tasks.size(), threads, [&] { return OfTasks{make(), tasks}; });
}

}  // namespace infinitypool
