#include "custom_ops/arena/pages.h"

#include <sys/mman.h>
#include <unistd.h>

namespace turbo_onnx::arena {
namespace {

constexpr int kProtection = PROT_READ | PROT_WRITE;
constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS;

void* checked(void* pages) { return pages == MAP_FAILED ? nullptr : pages; }

}  // namespace

size_t page_size() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

void* map_pages(size_t bytes) noexcept { return checked(mmap(nullptr, bytes, kProtection, kFlags, -1, 0)); }

void unmap_pages(void* pages, size_t bytes) noexcept { munmap(pages, bytes); }

#ifdef __linux__

void* remap_pages(void* pages, size_t old_bytes, size_t new_bytes) noexcept {
  return checked(mremap(pages, old_bytes, new_bytes, MREMAP_MAYMOVE));
}

void discard_pages(void* pages, size_t bytes) noexcept { madvise(pages, bytes, MADV_DONTNEED); }

#else

void* remap_pages(void* pages, size_t old_bytes, size_t new_bytes) noexcept {
  void* fresh = map_pages(new_bytes);
  if (fresh != nullptr) unmap_pages(pages, old_bytes);
  return fresh;
}

// Elsewhere advice is only advice. Mapping anew over the same addresses gives the memory back for certain.
void discard_pages(void* pages, size_t bytes) noexcept { mmap(pages, bytes, kProtection, kFlags | MAP_FIXED, -1, 0); }

#endif

}  // namespace turbo_onnx::arena
