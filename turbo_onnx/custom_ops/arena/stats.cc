#include "custom_ops/arena/stats.h"

#include <algorithm>
#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "custom_ops/arena/blocks.h"
#include "custom_ops/arena/counters.h"
#include "custom_ops/arena/heap.h"

namespace turbo_onnx::arena {

size_t stats(int64_t* out, size_t capacity) noexcept {
  int64_t values[kStats] = {};
  const Counters& runs = counters();
  values[kRunsAnnounced] = runs.announced;
  values[kRunsKept] = runs.kept;
  values[kRunsMismatched] = runs.mismatched;
  values[kRunsAbandoned] = runs.abandoned;
  values[kRunsOverLimit] = runs.over_limit;
  values[kAllocationsServed] = runs.served;
  values[kAllocationsOutputs] = runs.outputs;
  values[kAllocationsUnknown] = runs.unknown;
  values[kAllocationsOffPlan] = runs.off_plan;
  const Pool::Usage blocks = block_usage();
  values[kBlocks] = static_cast<int64_t>(blocks.blocks);
  values[kBlockBytesMapped] = static_cast<int64_t>(blocks.mapped);
  values[kBlockBytesHeld] = static_cast<int64_t>(blocks.held);
  values[kBlockBytesInUse] = static_cast<int64_t>(blocks.in_use);
  values[kBlockBytesPeak] = static_cast<int64_t>(blocks.peak_in_use);
  const Heap::Usage usage = heap().usage();
  values[kHeapBytesInUse] = static_cast<int64_t>(usage.in_use);
  values[kHeapBytesCached] = static_cast<int64_t>(usage.cached);
  values[kHeapBytesReserved] = static_cast<int64_t>(usage.reserved);
  std::copy_n(values, std::min<size_t>(capacity, kStats), out);
  return kStats;
}

void trim() noexcept {
  trim_blocks();
  heap().trim();
#ifdef __GLIBC__
  malloc_trim(0);  // the C library keeps what sessions used while they were made
#endif
}

}  // namespace turbo_onnx::arena
