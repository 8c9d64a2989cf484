#include "custom_ops/arena/heap.h"

#include <algorithm>
#include <cstdlib>

#include "custom_ops/arena/pages.h"

namespace turbo_onnx::arena {

// In front of each piece of memory.
struct alignas(kAlignment) Heap::Header {
  size_t bytes;   // with this header
  size_t number;  // its class, or kReserved
  size_t wanted;  // bytes of the class that was asked for, while it is in use
  Header* newer;  // among all that are kept
  Header* older;
  Header* before;  // among those of its class
  Header* after;
};

namespace {

constexpr size_t kReserved = ~size_t{0};
constexpr size_t kLargest = size_t{1} << 46;
constexpr size_t kMappedFrom = 128 * 1024;  // larger ones are pages of their own, smaller ones the C library's
constexpr size_t kSlack = 2 << 20;          // what may be kept in any case

// Classes up to 512 bytes are multiples of 64; each doubling from there has eight.
constexpr size_t kLinear = 8;
constexpr size_t kFirstDoubling = 9;

// Memory of the system's, or null.
void* from_system(size_t bytes) {
  if (bytes >= kMappedFrom) return map_pages(bytes);
  void* memory = nullptr;
  return posix_memalign(&memory, kAlignment, bytes) == 0 ? memory : nullptr;
}

// How much may be in use and kept, where so much was in use lately.
size_t limit(size_t peak) { return peak + peak / 8 + kSlack; }

}  // namespace

size_t Heap::class_of(size_t bytes) {
  if (bytes <= kLinear * 64) return (bytes + 63) / 64 - 1;
  const size_t n = bytes - 1;
  const size_t doubling = 63 - static_cast<size_t>(__builtin_clzll(n));
  return kLinear + (doubling - kFirstDoubling) * 8 + ((n >> (doubling - 3)) & 7);
}

size_t Heap::class_bytes(size_t number) {
  if (number < kLinear) return (number + 1) * 64;
  const size_t doubling = kFirstDoubling + (number - kLinear) / 8;
  return (9 + (number - kLinear) % 8) << (doubling - 3);
}

Heap::Header* Heap::obtain(size_t number) noexcept {
  const size_t bytes = class_bytes(number);
  void* memory = from_system(bytes);
  return memory == nullptr ? nullptr : new (memory) Header{bytes, number, 0, nullptr, nullptr, nullptr, nullptr};
}

void Heap::give_back(Header* chain) noexcept {
  while (chain != nullptr) {
    Header* header = chain;
    chain = chain->after;
    if (header->bytes >= kMappedFrom) {
      unmap_pages(header, header->bytes);
    } else {
      std::free(header);
    }
  }
}

// The largest pages of the chain that are a mapping of their own, taken out of it and made as large as the class wants:
// what memory they have is spared a fault for each page. Null where there are none.
Heap::Header* Heap::reshape(Header*& chain, size_t number) noexcept {
  if (class_bytes(number) < kMappedFrom) return nullptr;
  Header** largest = &chain;
  for (Header** at = &chain; *at != nullptr; at = &(*at)->after) {
    if ((*at)->bytes > (*largest)->bytes) largest = at;
  }
  Header* header = *largest;
  if (header == nullptr || header->bytes < kMappedFrom) return nullptr;
  *largest = header->after;
  void* memory = remap_pages(header, header->bytes, class_bytes(number));
  if (memory != nullptr) return new (memory) Header{class_bytes(number), number, 0, nullptr, nullptr, nullptr, nullptr};
  header->after = chain;
  chain = header;
  return nullptr;
}

void Heap::unlink(Header* header) {
  List& list = kept_[header->number];
  (header->before != nullptr ? header->before->after : list.first) = header->after;
  (header->after != nullptr ? header->after->before : list.last) = header->before;
  if (list.first == nullptr) nonempty_[header->number / 64] &= ~(uint64_t{1} << header->number % 64);
  (header->newer != nullptr ? header->newer->older : newest_) = header->older;
  (header->older != nullptr ? header->older->newer : oldest_) = header->newer;
  cached_ -= header->bytes;
}

// Something kept that is large enough. Where nothing of the class is, large pieces may be up to twice as large, and
// larger as long as no more comes into use than lately was: they are there anyway, and all shapes of a model then share
// what is kept.
Heap::Header* Heap::take(size_t number) {
  Header* header = kept_[number].first;
  if (header == nullptr && class_bytes(number) >= kMappedFrom) {
    size_t other = number + 1;
    while (other < kClasses && (nonempty_[other / 64] >> other % 64 & 1) == 0) ++other;
    const bool spare = other < kClasses && in_use_ + class_bytes(other) <= recent_peak();
    if (other <= number + 7 ? other < kClasses : spare) header = kept_[other].first;
  }
  if (header != nullptr) unlink(header);
  return header;
}

size_t Heap::recent_peak() const { return *std::max_element(peaks_, peaks_ + kWindows); }

void Heap::count_allocation(Header* header, size_t wanted) {
  header->wanted = wanted;
  in_use_ += header->bytes;
  wanted_ += wanted;
  pass(1);
  peaks_[window_] = std::max(peaks_[window_], wanted_);
}

// So many allocations have gone by. True where a window has ended.
bool Heap::pass(unsigned allocations) {
  allocations_ += allocations;
  if (allocations_ < kWindowAllocations) return false;
  allocations_ = 0;
  window_ = (window_ + 1) % kWindows;
  peaks_[window_] = wanted_;
  return true;
}

void Heap::planned_run_ended() noexcept {
  Header* unneeded = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (pass(kWindowAllocations / kWindowRuns)) unneeded = excess(limit(recent_peak()));
  }
  give_back(unneeded);
}

// Takes out of what is kept, the oldest first, what goes beyond this sum with what is in use; a chain by `after`.
Heap::Header* Heap::excess(size_t most) {
  Header* chain = nullptr;
  while (oldest_ != nullptr && in_use_ + cached_ > most) {
    Header* header = oldest_;
    unlink(header);
    header->after = chain;
    chain = header;
  }
  return chain;
}

void* Heap::allocate(size_t bytes) noexcept {
  if (bytes == 0 || bytes > kLargest) return nullptr;
  const size_t number = class_of(bytes + sizeof(Header));
  const size_t fresh = class_bytes(number);
  Header* header = nullptr;
  Header* unneeded = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    header = take(number);
    if (header != nullptr) {
      count_allocation(header, fresh);
      if (allocations_ == 0) unneeded = excess(limit(recent_peak()));
    } else {
      unneeded = excess(limit(std::max(recent_peak(), in_use_ + fresh)) - fresh);
    }
  }
  const bool fits = header != nullptr;
  if (!fits) header = reshape(unneeded, number);
  give_back(unneeded);
  if (fits) return header + 1;
  if (header == nullptr) header = obtain(number);
  if (header == nullptr) {
    trim();
    header = obtain(number);
  }
  if (header == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  count_allocation(header, fresh);
  return header + 1;
}

void* Heap::reserve(size_t bytes) noexcept {
  if (bytes == 0 || bytes > kLargest) return nullptr;
  const size_t all = round_up(bytes + sizeof(Header), kAlignment);
  void* memory = from_system(all);
  if (memory == nullptr) {
    trim();
    memory = from_system(all);
  }
  if (memory == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  reserved_ += all;
  return new (memory) Header{all, kReserved, 0, nullptr, nullptr, nullptr, nullptr} + 1;
}

void Heap::release(void* memory) noexcept {
  if (memory == nullptr) return;
  Header* header = static_cast<Header*>(memory) - 1;
  if (header->number == kReserved) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      reserved_ -= header->bytes;
    }
    header->after = nullptr;
    give_back(header);
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  in_use_ -= header->bytes;
  wanted_ -= header->wanted;
  cached_ += header->bytes;
  List& list = kept_[header->number];
  header->before = nullptr;
  header->after = list.first;
  (list.first != nullptr ? list.first->before : list.last) = header;
  list.first = header;
  nonempty_[header->number / 64] |= uint64_t{1} << header->number % 64;
  header->newer = nullptr;
  header->older = newest_;
  (newest_ != nullptr ? newest_->newer : oldest_) = header;
  newest_ = header;
}

void Heap::trim() noexcept {
  Header* chain = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    chain = excess(0);
    std::fill(peaks_, peaks_ + kWindows, wanted_);
  }
  give_back(chain);
}

Heap::Usage Heap::usage() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {in_use_, cached_, reserved_};
}

Heap& heap() {
  static Heap& only = *new Heap;
  return only;
}

}  // namespace turbo_onnx::arena
