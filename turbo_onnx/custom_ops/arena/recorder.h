// Writes down what a thread allocates and frees, so that the optimizer can make a plan of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace turbo_onnx::arena {

class Recorder {
 public:
  // After the marker comes an event for each axis of each of its inputs, in order.
  enum Kind : int64_t { kAllocation = 1, kFree = 2, kMarker = 3, kAxis = 4 };

  struct Event {
    int64_t kind;
    int64_t size;    // bytes, or the extent of the axis
    int64_t number;  // of the allocation, counted from 0; -1: none
    int64_t when;    // nanoseconds of std::chrono::high_resolution_clock, which ONNX Runtime's profiler goes by, too
  };

  void allocated(const void* memory, size_t bytes) noexcept;
  void freed(const void* memory) noexcept;  // what was allocated before the recording began is left out
  void marker(const std::vector<std::vector<int64_t>>& shapes) noexcept;

  // Empty where there was no memory to write it all down.
  const std::vector<Event>& events() const { return events_; }

 private:
  struct Allocation {
    int64_t number, bytes;
  };
  void write(Kind kind, int64_t size, int64_t number);
  void give_up();

  std::vector<Event> events_;
  std::unordered_map<const void*, Allocation> alive_;
  int64_t allocations_ = 0;
  bool failed_ = false;
};

}  // namespace turbo_onnx::arena
