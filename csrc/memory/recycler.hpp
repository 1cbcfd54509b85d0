// Large blocks are kept and handed out again: touching fresh pages costs more than any kernel here.
#pragma once

#include <cstddef>

namespace infinitypool::memory {

inline constexpr std::size_t kAlignment = 64;

void* acquire(std::size_t bytes);               // throws std::bad_alloc
void release(void* block, std::size_t bytes);   // with the size it was acquired with

void empty();                                   // gives every kept block back to the system
void set_limit(std::size_t bytes);              // at most this much is kept

struct Info { std::size_t limit, cached, in_use; };
Info info();

// A small block that the thread keeps for its next call: a call on a small tensor takes less than the C library.
void* acquire_scratch(std::size_t bytes);  // throws std::bad_alloc
void release_scratch(void* block, std::size_t bytes);

// Scratch for one call.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes) : data_(acquire_scratch(bytes)), bytes_(bytes) {}
  ~Buffer() { release_scratch(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_;
  std::size_t bytes_;
};

}  // namespace infinitypool::memory
