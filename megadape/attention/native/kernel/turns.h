// The order in which threads add to dK and dV.
//
// Sums of floats depend on their order. Here it is that of the query blocks, whatever the threads do, so that every run
// with the same number of threads gives the same bits. Block n of a batch item may add to a key block when block n - 1
// has passed it. All walk the keys in the same direction, so that is seldom a wait, and no thread needs a copy of dK
// and dV.
#pragma once

#include <sched.h>

namespace {

class Turns {
 public:
  Turns(Arena &arena, const Plan &plan) : passed_(arena.take<int64_t>(plan.units())), count_(plan.query_blocks) {}
  void reset(const Plan &plan) { fill(passed_, plan.units(), int64_t(0)); }

  void wait(int64_t batch, int64_t order, int64_t key) const {
    if (order == 0) return;
    const int64_t *before = passed_ + batch * count_ + order - 1;
    while (__atomic_load_n(before, __ATOMIC_ACQUIRE) <= key) sched_yield();
  }
  void pass(int64_t batch, int64_t order, int64_t key) const {
    __atomic_store_n(passed_ + batch * count_ + order, key + 1, __ATOMIC_RELEASE);
  }
  void finish(int64_t batch, int64_t order) const { pass(batch, order, INT64_MAX - 1); }

 private:
  int64_t *passed_;
  int64_t count_;
};

// which thread computes unit n: the units grow shorter, so every second round of threads goes backwards
INLINE int64_t owner(int64_t n, int64_t threads) {
  const int64_t place = n % threads;
  return n / threads % 2 == 0 ? place : threads - 1 - place;
}

}  // namespace
