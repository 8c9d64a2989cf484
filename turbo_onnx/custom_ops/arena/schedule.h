// What a run of one plan does at one shape: each allocation with its size and its offset in the block, each free with
// the offset of what is freed, in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/arena/plan.h"

namespace turbo_onnx::arena {

struct Step {
  enum Kind : uint32_t {
    kServe,    // an allocation from the block
    kRelease,  // a free of one
    kHeap,     // an allocation of this size from the heap
    kAny,      // an allocation of whatever size from the heap
    kEnd,
  };
  size_t bytes;
  size_t offset;
  Kind kind;
  int32_t buffer;
};

struct Schedule {
  std::vector<Step> steps;  // up to the last planned free; then kEnd
  size_t block_bytes;
  size_t served;             // allocations from the block
  size_t outputs;            // allocations from the heap whose size is known
  size_t unknown;            // and those whose size is not
  size_t allocations_after;  // allocations from the heap behind the last step
};

// `values`: of the plan's variables. Null where the sizes are negative or beyond all memory. Buffers of no bytes are
// left out, since ONNX Runtime does not ask for them. May throw std::bad_alloc.
std::shared_ptr<const Schedule> make_schedule(const Plan& plan, const Variant& variant,
                                              const std::vector<int64_t>& values);

// The schedules of one session, of which the last few are kept: most services see the same shapes again.
class Schedules {
 public:
  // As make_schedule; `variant` is its number.
  std::shared_ptr<const Schedule> find(const Plan& plan, size_t variant, const std::vector<int64_t>& values);

 private:
  static constexpr size_t kKept = 8;
  struct Entry {
    size_t variant;
    std::vector<int64_t> values;
    std::shared_ptr<const Schedule> schedule;
  };
  std::vector<Entry> kept_;
  size_t next_ = 0;  // to be replaced
};

}  // namespace turbo_onnx::arena
