#include "tests/arena/failing_memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <new>

namespace failing {
namespace {

thread_local int in_arena;
std::atomic<bool> armed{false};
std::atomic<size_t> requests{0}, first_failing{0}, last_failing{0};

bool fails() {
  if (in_arena == 0 || !armed) return false;
  const size_t request = requests++;
  return request >= first_failing && request < last_failing;
}

}  // namespace

InArena::InArena() { ++in_arena; }
InArena::~InArena() { --in_arena; }

void arm(size_t first, size_t count) {
  requests = 0;
  first_failing = first;
  last_failing = first + count;
  armed = true;
}

size_t disarm() {
  armed = false;
  return requests;
}

}  // namespace failing

extern "C" {
void* __real_mmap(void*, size_t, int, int, int, off_t);
void* __real_mremap(void*, size_t, size_t, int, ...);
int __real_posix_memalign(void**, size_t, size_t);

void* __wrap_mmap(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  return failing::fails() ? MAP_FAILED : __real_mmap(address, bytes, protection, flags, file, offset);
}
void* __wrap_mremap(void* address, size_t old_bytes, size_t new_bytes, int flags, ...) {
  return failing::fails() ? MAP_FAILED : __real_mremap(address, old_bytes, new_bytes, flags);
}
int __wrap_posix_memalign(void** memory, size_t alignment, size_t bytes) {
  return failing::fails() ? ENOMEM : __real_posix_memalign(memory, alignment, bytes);
}
}

void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return failing::fails() ? nullptr : std::malloc(bytes != 0 ? bytes : 1);
}
void* operator new(size_t bytes) {
  void* memory = operator new(bytes, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
