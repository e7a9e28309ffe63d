// Aligned working memory: one allocation per thread, divided among the arrays of a scratch structure.
//
// A scratch structure takes its arrays from an Arena in its constructor. It is constructed twice: on an empty arena,
// which only counts, and on the memory then allocated.
#pragma once

#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

class Arena {
 public:
  Arena() = default;
  explicit Arena(char *base) : base_(base) {}

  template <class T>
  T *take(int64_t count) {
    const size_t at = used_;
    used_ += (count * sizeof(T) + 63) / 64 * 64 + 64;  // a gap, so that equal arrays do not fall on the same cache sets
    return base_ ? reinterpret_cast<T *>(base_ + at) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  char *base_ = nullptr;
  size_t used_ = 0;
};

class Memory {
 public:
  explicit Memory(size_t bytes) {
    if (posix_memalign(&data_, 64, bytes + 64) != 0) data_ = nullptr;
  }
  ~Memory() { free(data_); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  char *data() const { return static_cast<char *>(data_); }

 private:
  void *data_ = nullptr;
};

// how much memory a scratch structure wants
template <class Scratch, class... Arguments>
size_t size_of(const Arguments &...arguments) {
  Arena counting;
  Scratch(counting, arguments...);
  return counting.used();
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t blocks_of(int64_t count, int64_t block) { return (count + block - 1) / block; }
INLINE int64_t round_up(int64_t count, int64_t block) { return blocks_of(count, block) * block; }

INLINE void prefetch_bytes(const char *from, int64_t bytes) {
  for (int64_t n = 0; n < bytes; n += 64) __builtin_prefetch(from + n, 0, 2);
}

INLINE int64_t thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}
INLINE int64_t thread_count() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

template <class T>
void fill(T *to, int64_t count, T value) {
  for (int64_t n = 0; n < count; ++n) to[n] = value;
}

}  // namespace
