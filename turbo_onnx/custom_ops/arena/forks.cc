#include "custom_ops/arena/forks.h"

#include <pthread.h>

#include "custom_ops/arena/blocks.h"
#include "custom_ops/arena/heap.h"

namespace turbo_onnx::arena {
namespace {

void before() {
  registration_lock().lock();
  lock_blocks();
  schedules_lock().lock();
  heap().lock();
}

void after_in_parent() {
  heap().unlock();
  schedules_lock().unlock();
  unlock_blocks();
  registration_lock().unlock();
}

void after_in_child() {
  forget_blocks_of_other_threads();
  after_in_parent();
}

// When the library is loaded. Where there is no memory for it, forks are as they were without.
[[maybe_unused]] const int handled = pthread_atfork(before, after_in_parent, after_in_child);

}  // namespace

std::mutex& registration_lock() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

std::mutex& schedules_lock() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

}  // namespace turbo_onnx::arena
