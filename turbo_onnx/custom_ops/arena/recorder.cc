#include "custom_ops/arena/recorder.h"

#include <chrono>
#include <new>

namespace turbo_onnx::arena {
namespace {

// ONNX Runtime's profiler counts in whole microseconds. What is written down so far from the begin and the end of a
// node lies within the node by that count, too, and within no other one.
void pause_for_the_profiler() {
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::microseconds(3)) continue;
}

}  // namespace

void Recorder::write(Kind kind, int64_t size, int64_t number) {
  const auto now = std::chrono::high_resolution_clock::now().time_since_epoch();
  const int64_t when = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  events_.push_back({kind, size, number, when});
}

void Recorder::give_up() {
  failed_ = true;
  events_.clear();
  alive_.clear();
}

void Recorder::allocated(const void* memory, size_t bytes) noexcept {
  if (failed_) return;
  try {
    const Allocation allocation{allocations_++, static_cast<int64_t>(bytes)};
    alive_[memory] = allocation;
    pause_for_the_profiler();
    write(kAllocation, allocation.bytes, allocation.number);
    pause_for_the_profiler();
  } catch (const std::bad_alloc&) {
    give_up();
  }
}

void Recorder::freed(const void* memory) noexcept {
  const auto found = alive_.find(memory);
  if (found == alive_.end()) return;
  try {
    write(kFree, found->second.bytes, found->second.number);
    alive_.erase(found);
  } catch (const std::bad_alloc&) {
    give_up();
  }
}

void Recorder::marker(const std::vector<std::vector<int64_t>>& shapes) noexcept {
  if (failed_) return;
  try {
    write(kMarker, 0, -1);
    for (const auto& shape : shapes) {
      for (const int64_t extent : shape) write(kAxis, extent, -1);
    }
  } catch (const std::bad_alloc&) {
    give_up();
  }
}

}  // namespace turbo_onnx::arena
