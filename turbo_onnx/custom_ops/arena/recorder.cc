#include "custom_ops/arena/recorder.h"

#include <chrono>
#include <new>

namespace turbo_onnx::arena {

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
    write(kAllocation, allocation.bytes, allocation.number);
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
