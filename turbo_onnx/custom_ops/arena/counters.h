// What runs have done since the process began. Counted once a run, not once an allocation.
#pragma once

#include <atomic>
#include <cstdint>

namespace turbo_onnx::arena {

using Counter = std::atomic<int64_t>;

struct Counters {
  Counter announced{0};   // runs
  Counter kept{0};        // runs that kept to their plan to its end
  Counter mismatched{0};  // runs that did something else than their plan, or were not as it assumes
  Counter abandoned{0};   // runs that broke off: an error, or another run began on the thread
  Counter over_limit{0};  // runs that got no block: the limit, or no memory
  Counter served{0};      // allocations from blocks
  Counter outputs{0};     // allocations from the heap that the plan says, of known sizes
  Counter unknown{0};     // and of unknown ones
  Counter off_plan{0};    // allocations from the heap by runs that were announced and got no block, or left their plan
};

inline Counters& counters() {
  static Counters only;  // nothing to destroy
  return only;
}

inline void count(Counter& counter, int64_t by = 1) { counter.fetch_add(by, std::memory_order_relaxed); }

}  // namespace turbo_onnx::arena
