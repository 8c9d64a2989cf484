// The heap for everything that no plan places: outputs, the tensors of other models, and runs that left their plan.
//
// It keeps what is freed, since a fresh page costs a fault for every 4 KiB, but no more than recent use needed: the sum
// of what is in use and what is kept stays below an eighth more than the most that was in use during the last few
// thousand allocations, or the last 16 planned runs, which hardly allocate. So memory does not grow with every new
// shape, and falls again when short runs follow long ones.
//
// One lock, held for some tens of instructions and never while the system is asked for memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

namespace turbo_onnx::arena {

constexpr size_t kAlignment = 64;  // AVX-512 kernels of ONNX Runtime load what they are given as aligned

class Heap {
 public:
  // Aligned; null where there is no memory, and for no bytes.
  void* allocate(size_t bytes) noexcept;

  // As `allocate`, for what lives as long as a session (weights): not kept after it is freed.
  void* reserve(size_t bytes) noexcept;

  // Takes what either of them returned, or null.
  void release(void* memory) noexcept;

  // Time goes by, though next to nothing is allocated here.
  void planned_run_ended() noexcept;

  // Gives back everything that is kept.
  void trim() noexcept;

  struct Usage {
    size_t in_use, cached, reserved;  // bytes, with headers
  };
  Usage usage() noexcept;

  // For a fork.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Header;
  struct List {
    Header* first = nullptr;
    Header* last = nullptr;
  };
  // Eight classes for every doubling: a piece of memory is at most an eighth larger than what was asked for.
  static constexpr size_t kClasses = 320;
  static constexpr size_t kWindows = 4;
  static constexpr unsigned kWindowAllocations = 1024;
  static constexpr unsigned kWindowRuns = 4;

  static size_t class_of(size_t bytes);
  static size_t class_bytes(size_t number);
  static Header* obtain(size_t number) noexcept;
  static Header* reshape(Header*& chain, size_t number) noexcept;
  static void give_back(Header* chain) noexcept;

  // All of these want the lock.
  Header* take(size_t number);
  size_t recent_peak() const;
  void count_allocation(Header* header, size_t wanted);
  bool pass(unsigned allocations);
  Header* excess(size_t most);
  void unlink(Header* header);

  std::mutex mutex_;
  List kept_[kClasses];                    // by class, the one freed last first
  uint64_t nonempty_[kClasses / 64] = {};  // a bit for each class
  Header* newest_ = nullptr;               // all that is kept, by when it was freed
  Header* oldest_ = nullptr;
  size_t in_use_ = 0, cached_ = 0, reserved_ = 0;
  size_t wanted_ = 0;            // as in_use_, had each piece just the size that was asked for
  size_t peaks_[kWindows] = {};  // the most wanted during each of the last windows
  size_t window_ = 0;
  unsigned allocations_ = 0;  // in this window
};

// The one of this process. Never destroyed: tensors may outlive everything else.
Heap& heap();

}  // namespace turbo_onnx::arena
