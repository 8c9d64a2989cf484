// Memory that a kernel works in: one block for each thread, kept between calls, or one for a call.
#pragma once

#include <cstddef>
#include <new>

namespace turbo_onnx {
namespace TURBO_ISA {

// At least `floats` floats, aligned to 64 bytes, with any content; the thread's own until its next call. Grows to the
// most that was asked for, so ask for bounded sizes only.
inline float* scratch(size_t floats) {
  struct Block {
    float* data = nullptr;
    size_t floats = 0;
    ~Block() { ::operator delete(data, std::align_val_t(64)); }
  };
  thread_local Block block;
  if (block.floats < floats) {
    ::operator delete(block.data, std::align_val_t(64));
    block.data = nullptr;
    block.floats = 0;
    block.data = static_cast<float*>(::operator new(floats * sizeof(float), std::align_val_t(64)));
    block.floats = floats;
  }
  return block.data;
}

// Memory of one call, for all of its threads.
class Memory {
 public:
  float* data = nullptr;

  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::operator delete(data, std::align_val_t(64)); }

  // Once only: that many floats, aligned to 64 bytes, with any content.
  void allocate(size_t floats) {
    if (floats) data = static_cast<float*>(::operator new(floats * sizeof(float), std::align_val_t(64)));
  }
};

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
