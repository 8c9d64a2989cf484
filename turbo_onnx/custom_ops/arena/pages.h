// Memory from the operating system, by the page. What differs between systems is here and nowhere else.
#pragma once

#include <cstddef>

namespace turbo_onnx::arena {

// A power of two.
size_t page_size();

inline size_t round_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) & ~(multiple - 1); }

// Fresh pages, all zero, which take no memory until they are touched. Null where there are none.
void* map_pages(size_t bytes) noexcept;

void unmap_pages(void* pages, size_t bytes) noexcept;

// As map_pages, with the memory that the old pages hold where the system can move it; what is in them is not kept
// otherwise. Null leaves the old pages as they were.
void* remap_pages(void* pages, size_t old_bytes, size_t new_bytes) noexcept;

// Gives the memory back; the pages stay. Both have to be multiples of the page size.
void discard_pages(void* pages, size_t bytes) noexcept;

}  // namespace turbo_onnx::arena
