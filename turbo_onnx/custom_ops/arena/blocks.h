// The memory of planned runs: one block for each run that is going on, used again by the next.
//
// A pointer into a block has nothing in front of it that says so. A table of the address ranges of all blocks, read
// without a lock, tells it from a pointer of the heap's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "custom_ops/arena/policy.h"

namespace turbo_onnx::arena {

class Pool;

// Belongs to one run at a time, which may write to all its fields but those that are said to be the pool's.
struct Block {
  static constexpr size_t kRecent = 16;

  Pool* pool;
  size_t slot;                  // in the table of ranges
  char* base = nullptr;         // pages, or null
  size_t mapped = 0;            // bytes of address space
  size_t held = 0;              // bytes that may have memory behind them
  size_t needed = 0;            // by the present or last run
  size_t recent[kRecent] = {};  // needed by the last runs
  size_t next_recent = 0;
  uint64_t released = 0;  // the pool's: the number of the release that made it idle

  // What is the thread's own whose run uses it; null once the run has let go of it.
  std::atomic<const void*> runner{nullptr};

  // Once its run has let go of the block: how many buffers are alive in it. Until then: minus those that others than
  // the run's own thread have freed.
  std::atomic<int64_t> outstanding{0};
};

class Pool {
 public:
  explicit Pool(Policy policy) : policy_(policy) {}

  // A block of at least `bytes`, which are more than none. Null where there is no memory, and where the limit forbids.
  Block* acquire(size_t bytes) noexcept;

  // Takes back a block in which nothing is alive.
  void release(Block* block) noexcept;

  // Gives back the memory of all blocks that no run uses.
  void trim() noexcept;

  struct Usage {
    size_t blocks, mapped, held, in_use, peak_in_use;  // number; bytes
  };
  Usage usage() noexcept;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  // The block's run is gone, and nothing is known of what is in it: it is never used again. Wants the lock.
  void forget(Block& block) noexcept;

 private:
  // All of these want the lock.
  Block* choose(size_t bytes);
  Block* make_block();
  bool within_limit(const Block& block, size_t bytes);
  bool make_room(Block& block, size_t bytes);
  void give_back(Block& block);
  void give_back_forgotten();

  const Policy policy_;
  std::mutex mutex_;
  std::vector<Block*> idle_;   // with memory; the one released last is the last
  std::vector<Block*> empty_;  // without
  size_t blocks_ = 0;          // made so far; capacity for all of them is in both vectors
  size_t mapped_ = 0, held_ = 0, in_use_ = 0, peak_in_use_ = 0;
  uint64_t releases_ = 0;
};

// The pool of all sessions of this process with this policy. Never destroyed.
Pool& pool(const Policy& policy);

// Over all pools.
Pool::Usage block_usage();
void trim_blocks();

// The block in which the address is, or null. May be asked for addresses that are in use.
Block* block_of(const void* address) noexcept;

// One buffer in a block that its run has let go of, or of which another thread is the owner, is no longer alive.
void free_in_block(Block& block) noexcept;

// The run lets go of its block, in which that many buffers are alive. The last of them to be freed releases it.
void let_go(Block& block, int64_t alive) noexcept;

// For a fork: all locks of this file, in their order.
void lock_blocks();
void unlock_blocks();

// Between the two, in a child process, which has the calling thread and no other: what the runs of the others use no
// longer counts. It is not given back either, since it is not known what the caller has of it.
void forget_blocks_of_other_threads() noexcept;

}  // namespace turbo_onnx::arena
