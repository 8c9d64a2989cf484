// Parts of the arena as C functions, so that tests can call them one by one from Python.
#include <string>
#include <vector>

#include "custom_ops/arena/blocks.h"
#include "custom_ops/arena/heap.h"
#include "custom_ops/arena/plan.h"
#include "custom_ops/arena/run.h"
#include "custom_ops/arena/schedule.h"
#include "custom_ops/ort/status.h"

#define PROBE extern "C" __attribute__((visibility("default")))

using namespace turbo_onnx;
using namespace turbo_onnx::arena;

namespace {
thread_local std::string sentence;
}

PROBE const char* plan_error(const char* text) {
  try {
    parse_plan(text);
    return nullptr;
  } catch (const InvalidArgument& error) {
    sentence = error.what();
    return sentence.c_str();
  }
}

// Writes each buffer's offset, -1 for those that are not served; returns how large the block is, -1 where it does not
// fit.
PROBE int64_t plan_offsets(const char* text, size_t variant, const int64_t* values, int64_t* offsets) {
  const Plan plan = parse_plan(text);
  const auto schedule = make_schedule(plan, plan.variants[variant], {values, values + plan.variables.size()});
  if (schedule == nullptr) return -1;
  for (size_t i = 0; i < plan.variants[variant].buffers.size(); ++i) offsets[i] = -1;
  for (const Step& step : schedule->steps) {
    if (step.kind == Step::kServe) offsets[step.buffer] = static_cast<int64_t>(step.offset);
  }
  return static_cast<int64_t>(schedule->block_bytes);
}

PROBE const char* policy_error(const char* text) {
  try {
    parse_policy(text);
    return nullptr;
  } catch (const InvalidArgument& error) {
    sentence = error.what();
    return sentence.c_str();
  }
}

PROBE Block* block_acquire(const char* policy, size_t bytes) { return pool(parse_policy(policy)).acquire(bytes); }
PROBE void block_release(Block* block) { block->pool->release(block); }
PROBE char* block_base(const Block* block) { return block->base; }
PROBE const Block* block_at(const char* address) { return block_of(address); }
PROBE void block_trim() { trim_blocks(); }
PROBE void block_numbers(const char* policy, int64_t* out) {
  const Pool::Usage usage = pool(parse_policy(policy)).usage();
  const size_t numbers[] = {usage.blocks, usage.mapped, usage.held, usage.in_use, usage.peak_in_use};
  for (const size_t number : numbers) *out++ = static_cast<int64_t>(number);
}

PROBE void* heap_allocate(size_t bytes) { return heap().allocate(bytes); }
PROBE void* heap_reserve(size_t bytes) { return heap().reserve(bytes); }
PROBE void heap_release(void* memory) { heap().release(memory); }
PROBE void heap_trim() { heap().trim(); }
PROBE void heap_numbers(int64_t* out) {
  const Heap::Usage usage = heap().usage();
  const size_t numbers[] = {usage.in_use, usage.cached, usage.reserved};
  for (const size_t number : numbers) *out++ = static_cast<int64_t>(number);
}
