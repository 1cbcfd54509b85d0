#include "recycler.hpp"

#include <bit>
#include <cstdlib>
#include <iterator>
#include <list>
#include <mutex>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#define INFINITYPOOL_POSIX 1
#endif

namespace infinitypool::memory {
namespace {

constexpr std::size_t kSmall = std::size_t(64) << 10;  // below this the C library is quick itself
constexpr std::size_t kHuge = std::size_t(2) << 20;    // the size of a huge page

// Eight sizes to a power of two, so that a block serves requests a little smaller than itself.
std::size_t rounded(std::size_t bytes) {
  const std::size_t step = std::bit_floor(bytes) / 8;
  const std::size_t unit = bytes >= kHuge && step < kHuge / 8 ? kHuge / 8 : step;
  if (bytes > SIZE_MAX - unit) throw std::bad_alloc();
  return (bytes + unit - 1) / unit * unit;
}

void* allocate(std::size_t bytes) {
#if INFINITYPOOL_POSIX
  if (bytes >= kHuge) {
    // Huge pages need an aligned start: ask for more and give the rest back.
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t length = (bytes + page - 1) / page * page;
    if (length > SIZE_MAX - kHuge) throw std::bad_alloc();
    void* raw = mmap(nullptr, length + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) throw std::bad_alloc();
    char* start = static_cast<char*>(raw);
    char* aligned = start + (kHuge - reinterpret_cast<std::size_t>(start) % kHuge) % kHuge;
    if (aligned != start) munmap(start, aligned - start);
    const std::size_t tail = start + kHuge - aligned;
    if (tail) munmap(aligned + length, tail);
#ifdef MADV_HUGEPAGE
    madvise(aligned, length, MADV_HUGEPAGE);  // where the system does not grant them, nothing is lost
#endif
    return aligned;
  }
#endif
#if defined(_WIN32)
  void* block = _aligned_malloc(bytes, kAlignment);
#else
  void* block = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
#endif
  if (!block) throw std::bad_alloc();
  return block;
}

void deallocate(void* block, std::size_t bytes) {
#if INFINITYPOOL_POSIX
  if (bytes >= kHuge) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    munmap(block, (bytes + page - 1) / page * page);
    return;
  }
#endif
#if defined(_WIN32)
  _aligned_free(block);
#else
  (void)bytes;
  std::free(block);
#endif
}

struct Kept { void* block; std::size_t bytes; };

class Recycler {
 public:
  Recycler() {
#if INFINITYPOOL_POSIX
    // A child of fork must not inherit a lock that another thread held.
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] { instance().mutex_.unlock(); });
#endif
  }

  static Recycler& instance() {
    static Recycler* recycler = new Recycler;  // never destroyed: arrays may outlive static objects
    return *recycler;
  }

  void* acquire(std::size_t bytes) {
    {
      std::lock_guard lock(mutex_);
      // The most recently used block of this size is the one likeliest still in a cache.
      for (auto it = kept_.begin(); it != kept_.end(); ++it)
        if (it->bytes == bytes) {
          void* block = it->block;
          kept_.erase(it);
          cached_ -= bytes;
          in_use_ += bytes;
          return block;
        }
    }
    void* block;
    try {
      block = allocate(bytes);
    } catch (const std::bad_alloc&) {
      empty();  // what we keep may be just what is missing
      block = allocate(bytes);
    }
    std::lock_guard lock(mutex_);
    in_use_ += bytes;
    return block;
  }

  void release(void* block, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    in_use_ -= bytes;
    if (bytes > limit_) return deallocate(block, bytes);
    kept_.push_front({block, bytes});
    cached_ += bytes;
    shrink(limit_);
  }

  void empty() {
    std::lock_guard lock(mutex_);
    shrink(0);
  }

  void set_limit(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
    shrink(limit_);
  }

  Info info() {
    std::lock_guard lock(mutex_);
    return {limit_, cached_, in_use_};
  }

 private:
  void shrink(std::size_t limit) {  // oldest first
    while (cached_ > limit) {
      const Kept oldest = kept_.back();
      kept_.pop_back();
      cached_ -= oldest.bytes;
      deallocate(oldest.block, oldest.bytes);
    }
  }

  std::mutex mutex_;
  std::list<Kept> kept_;
  std::size_t cached_ = 0, in_use_ = 0;
  std::size_t limit_ = std::size_t(1) << 30;
};

}  // namespace

void* acquire(std::size_t bytes) {
  if (bytes < kSmall) {
    void* block = allocate(bytes ? bytes : 1);
    return block;
  }
  return Recycler::instance().acquire(rounded(bytes));
}

void release(void* block, std::size_t bytes) {
  if (bytes < kSmall) deallocate(block, bytes);
  else Recycler::instance().release(block, rounded(bytes));
}

namespace {

struct Spare {
  void* block = nullptr;
  ~Spare() {
    if (block) deallocate(block, kSmall - 1);
  }
};
thread_local Spare spare;

}  // namespace

void* acquire_scratch(std::size_t bytes) {
  if (bytes >= kSmall) return acquire(bytes);
  void* block = spare.block;
  spare.block = nullptr;
  return block ? block : allocate(kSmall - 1);
}

void release_scratch(void* block, std::size_t bytes) {
  if (bytes >= kSmall) release(block, bytes);
  else if (spare.block) deallocate(block, kSmall - 1);
  else spare.block = block;
}

void empty() { Recycler::instance().empty(); }
void set_limit(std::size_t bytes) { Recycler::instance().set_limit(bytes); }
Info info() { return Recycler::instance().info(); }

}  // namespace infinitypool::memory
