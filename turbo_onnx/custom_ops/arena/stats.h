// What the arena tells people about itself.
#pragma once

#include <cstddef>
#include <cstdint>

namespace turbo_onnx::arena {

// The numbers of turbo_onnx_arena_stats, in this order. New ones come last.
enum Stat : size_t {
  kRunsAnnounced,
  kRunsKept,
  kRunsMismatched,
  kRunsAbandoned,
  kRunsOverLimit,
  kAllocationsServed,
  kAllocationsOutputs,
  kAllocationsUnknown,
  kAllocationsOffPlan,
  kBlocks,
  kBlockBytesMapped,
  kBlockBytesHeld,
  kBlockBytesInUse,
  kBlockBytesPeak,
  kHeapBytesInUse,
  kHeapBytesCached,
  kHeapBytesReserved,
  kStats,
};

// Copies as many as there is room for; returns how many there are.
size_t stats(int64_t* out, size_t capacity) noexcept;

// Gives back all memory that nothing uses.
void trim() noexcept;

}  // namespace turbo_onnx::arena
