// What is alive, and who holds what: memory is filled when it is handed out, looked through before it is given back,
// and may overlap with nothing that is alive at the time, on any thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "custom_ops/arena/run.h"
#include "tests/arena/failing_memory.h"

namespace tenants {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

inline void expect(bool holds, const char* what) {
  if (!holds) fail(what);
}

class Registry {
 public:
  void add(const void* memory, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto first = reinterpret_cast<uintptr_t>(memory);
    const auto next = alive_.lower_bound(first);
    expect(next == alive_.end() || first + bytes <= next->first, "memory overlaps with what is behind it");
    expect(next == alive_.begin() || std::prev(next)->second <= first, "memory overlaps with what is in front of it");
    alive_[first] = first + bytes;
  }
  void remove(const void* memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    alive_.erase(reinterpret_cast<uintptr_t>(memory));
  }
  void lock() { mutex_.lock(); }  // for a fork
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, uintptr_t> alive_;
};

inline Registry& registry() {
  static Registry only;
  return only;
}

struct Held {
  unsigned char* memory;
  size_t bytes;
  unsigned char fill;
};

// Null memory: there was none.
inline Held take(size_t bytes, unsigned char fill) {
  unsigned char* memory = nullptr;
  {
    const failing::InArena in_arena;
    memory = static_cast<unsigned char*>(turbo_onnx::arena::allocate(bytes));
  }
  if (memory == nullptr) return {nullptr, 0, 0};
  expect(reinterpret_cast<uintptr_t>(memory) % 64 == 0, "memory is not aligned");
  registry().add(memory, bytes);
  std::memset(memory, fill, bytes);
  return {memory, bytes, fill};
}

inline void give(const Held& held) {
  for (size_t i = 0; i < held.bytes; ++i) expect(held.memory[i] == held.fill, "memory was written by somebody else");
  registry().remove(held.memory);
  const failing::InArena in_arena;
  turbo_onnx::arena::deallocate(held.memory);
}

}  // namespace tenants
