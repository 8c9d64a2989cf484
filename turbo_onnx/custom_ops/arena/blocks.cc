#include "custom_ops/arena/blocks.h"

#include <algorithm>
#include <map>
#include <new>

#include "custom_ops/arena/pages.h"

namespace turbo_onnx::arena {
namespace {

constexpr size_t kBlocks = 1024;              // of all pools together
constexpr size_t kLargest = size_t{1} << 39;  // one block
constexpr size_t kSlack = 1 << 20;            // what a block may hold in any case beyond what recent runs needed
constexpr uint64_t kForgotten = 64;           // a block that was idle for so many runs of others is not needed

// First page and number of pages in one word, so that both are read at once. Pages count as 4 KiB here on any system.
constexpr size_t kPageBits = 12;
constexpr size_t kLengthBits = 28;
constexpr size_t kAddressBits = 64 - kLengthBits + kPageBits;
std::atomic<uint64_t> ranges[kBlocks];
Block* blocks[kBlocks];
std::atomic<size_t> block_count{0};

std::mutex& table_mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

void set_range(const Block& block) {
  const uint64_t first = reinterpret_cast<uintptr_t>(block.base) >> kPageBits;
  ranges[block.slot].store(block.base == nullptr ? 0 : first << kLengthBits | block.mapped >> kPageBits,
                           std::memory_order_release);
}

// Whoever maps these addresses after they were unmapped must not find them here.
void clear_range(const Block& block) { ranges[block.slot].store(0, std::memory_order_release); }

// An address that no other thread has.
const void* this_thread() {
  static thread_local const char own = 0;
  return &own;
}

std::mutex& pools_mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

std::map<Policy, Pool>& pools() {
  static auto& every = *new std::map<Policy, Pool>;
  return every;
}

}  // namespace

Block* block_of(const void* address) noexcept {
  const uint64_t page = reinterpret_cast<uintptr_t>(address) >> kPageBits;
  const size_t count = block_count.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t range = ranges[i].load(std::memory_order_acquire);
    if (page - (range >> kLengthBits) < (range & ((uint64_t{1} << kLengthBits) - 1))) return blocks[i];
  }
  return nullptr;
}

void free_in_block(Block& block) noexcept {
  if (block.outstanding.fetch_sub(1, std::memory_order_acq_rel) == 1) block.pool->release(&block);
}

void let_go(Block& block, int64_t alive) noexcept {
  block.runner.store(nullptr, std::memory_order_relaxed);
  if (block.outstanding.fetch_add(alive, std::memory_order_acq_rel) == -alive) block.pool->release(&block);
}

// The smallest that holds enough already, else the one that holds most; of equal ones, the one used last.
Block* Pool::choose(size_t bytes) {
  size_t best = idle_.size();
  for (size_t i = idle_.size(); i-- > 0;) {
    if (best == idle_.size()) {
      best = i;
      continue;
    }
    const size_t held = idle_[i]->held, best_held = idle_[best]->held;
    const bool enough = held >= bytes, best_enough = best_held >= bytes;
    if (enough != best_enough ? enough : enough ? held < best_held : held > best_held) best = i;
  }
  if (best < idle_.size()) {
    Block* block = idle_[best];
    idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(best));
    return block;
  }
  if (empty_.empty()) return make_block();
  Block* block = empty_.back();
  empty_.pop_back();
  return block;
}

Block* Pool::make_block() {
  try {
    idle_.reserve(blocks_ + 1);
    empty_.reserve(blocks_ + 1);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  const std::lock_guard<std::mutex> lock(table_mutex());
  const size_t slot = block_count.load(std::memory_order_relaxed);
  if (slot == kBlocks) return nullptr;
  Block* block = new (std::nothrow) Block{};
  if (block == nullptr) return nullptr;
  block->pool = this;
  block->slot = slot;
  blocks[slot] = block;
  block_count.store(slot + 1, std::memory_order_release);
  ++blocks_;
  return block;
}

bool Pool::within_limit(const Block& block, size_t bytes) {
  if (policy_.kind != Policy::kLimit || bytes <= block.held) return true;
  const size_t more = bytes - block.held;
  while (held_ + more > policy_.limit && !idle_.empty()) {
    give_back(*idle_.front());
    empty_.push_back(idle_.front());
    idle_.erase(idle_.begin());
  }
  return held_ + more <= policy_.limit;
}

// More address space than is needed costs nothing, and spares the next slightly longer run a system call.
bool Pool::make_room(Block& block, size_t bytes) {
  if (bytes <= block.mapped) return true;
  const size_t mapped = round_up(bytes + bytes / 8, std::max<size_t>(page_size(), 64 * 1024));
  clear_range(block);
  void* pages = block.base == nullptr ? map_pages(mapped) : remap_pages(block.base, block.mapped, mapped);
  if (pages != nullptr) {
    mapped_ += mapped - block.mapped;
    block.mapped = mapped;
    block.base = static_cast<char*>(pages);
  }
  if (pages != nullptr && (reinterpret_cast<uintptr_t>(pages) + mapped) >> kAddressBits != 0) {
    give_back(block);  // no system hands out such addresses unasked
    return false;
  }
  set_range(block);
  return pages != nullptr;
}

void Pool::give_back(Block& block) {
  clear_range(block);
  if (block.base != nullptr) unmap_pages(block.base, block.mapped);
  mapped_ -= block.mapped;
  held_ -= block.held;
  block.base = nullptr;
  block.mapped = block.held = block.next_recent = 0;
  std::fill(block.recent, block.recent + Block::kRecent, 0);
}

Block* Pool::acquire(size_t bytes) noexcept {
  if (bytes > kLargest) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  Block* block = choose(bytes);
  if (block == nullptr) return nullptr;
  const size_t rounded = round_up(bytes, page_size());
  if (!within_limit(*block, rounded) || !make_room(*block, rounded)) {
    (block->base != nullptr ? idle_ : empty_).push_back(block);
    return nullptr;
  }
  block->needed = rounded;
  block->runner.store(this_thread(), std::memory_order_relaxed);
  held_ += std::max(block->held, rounded) - block->held;
  block->held = std::max(block->held, rounded);
  in_use_ += rounded;
  peak_in_use_ = std::max(peak_in_use_, in_use_);
  return block;
}

void Pool::release(Block* block) noexcept {
  block->recent[block->next_recent] = block->needed;
  block->next_recent = (block->next_recent + 1) % Block::kRecent;
  size_t surplus = 0;
  if (policy_.kind != Policy::kGrow) {
    const size_t most = *std::max_element(block->recent, block->recent + Block::kRecent);
    if (block->held > most + most / 4 + kSlack) {
      surplus = block->held - most;
      discard_pages(block->base + most, surplus);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  block->held -= surplus;
  held_ -= surplus;
  in_use_ -= block->needed;
  block->runner.store(nullptr, std::memory_order_relaxed);
  block->released = ++releases_;
  idle_.push_back(block);
  if (policy_.kind != Policy::kGrow) give_back_forgotten();
}

// More blocks than are used now are left over from when more runs were going on at once.
void Pool::give_back_forgotten() {
  Block* oldest = idle_.front();
  if (releases_ - oldest->released <= kForgotten) return;
  give_back(*oldest);
  idle_.erase(idle_.begin());
  empty_.push_back(oldest);
}

void Pool::trim() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Block* block : idle_) {
    give_back(*block);
    empty_.push_back(block);
  }
  idle_.clear();
}

Pool::Usage Pool::usage() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {blocks_ - empty_.size(), mapped_, held_, in_use_, peak_in_use_};
}

void Pool::forget(Block& block) noexcept {
  held_ -= block.held;
  in_use_ -= block.needed;
  block.held = block.needed = 0;
  block.runner.store(nullptr, std::memory_order_relaxed);
}

Pool& pool(const Policy& policy) {
  const std::lock_guard<std::mutex> lock(pools_mutex());
  return pools().try_emplace(policy, policy).first->second;
}

Pool::Usage block_usage() {
  const std::lock_guard<std::mutex> lock(pools_mutex());
  Pool::Usage sum{};
  for (auto& [policy, pool] : pools()) {
    const Pool::Usage usage = pool.usage();
    sum.blocks += usage.blocks;
    sum.mapped += usage.mapped;
    sum.held += usage.held;
    sum.in_use += usage.in_use;
    sum.peak_in_use += usage.peak_in_use;
  }
  return sum;
}

void trim_blocks() {
  const std::lock_guard<std::mutex> lock(pools_mutex());
  for (auto& [policy, pool] : pools()) pool.trim();
}

void lock_blocks() {
  pools_mutex().lock();
  for (auto& [policy, pool] : pools()) pool.lock();
  table_mutex().lock();
}

void unlock_blocks() {
  table_mutex().unlock();
  for (auto& [policy, pool] : pools()) pool.unlock();
  pools_mutex().unlock();
}

void forget_blocks_of_other_threads() noexcept {
  const size_t count = block_count.load(std::memory_order_relaxed);
  for (size_t i = 0; i < count; ++i) {
    const void* runner = blocks[i]->runner.load(std::memory_order_relaxed);
    if (runner != nullptr && runner != this_thread()) blocks[i]->pool->forget(*blocks[i]);
  }
}

}  // namespace turbo_onnx::arena
