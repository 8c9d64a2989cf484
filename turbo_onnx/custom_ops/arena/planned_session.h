// What all runs of one session share: its plan, where its blocks come from, and which variant of the plan holds.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "custom_ops/arena/blocks.h"
#include "custom_ops/arena/plan.h"
#include "custom_ops/arena/schedule.h"

namespace turbo_onnx::arena {

// Outlives its session where one of its runs broke off.
class PlannedSession {
 public:
  using Warn = std::function<void(const char* sentence)>;

  PlannedSession(Plan plan, Pool& pool, Warn warn) : plan_(std::move(plan)), pool_(pool), warn_(std::move(warn)) {}

  const Plan& plan() const { return plan_; }
  Pool& pool() const { return pool_; }
  size_t variant() const { return variant_.load(std::memory_order_relaxed); }

  // The plan's variables at inputs of these shapes. False: the inputs have no such axes.
  bool read(const std::vector<std::vector<int64_t>>& shapes, std::vector<int64_t>& values) const {
    for (const Variable& variable : plan_.variables) {
      const auto input = static_cast<size_t>(variable.input), axis = static_cast<size_t>(variable.axis);
      if (input >= shapes.size() || axis >= shapes[input].size()) return false;
      values.push_back(shapes[input][axis]);
    }
    return true;
  }

  // What of these shapes is not as the plan assumes, for a sentence; empty where all is. After `read`.
  std::string unlike(const std::vector<std::vector<int64_t>>& shapes, const std::vector<int64_t>& values) const {
    for (const Assumption& assumption : plan_.assumptions) {
      const auto input = static_cast<size_t>(assumption.input), axis = static_cast<size_t>(assumption.axis);
      const std::string place = "axis " + std::to_string(axis) + " of input " + std::to_string(input);
      if (input >= shapes.size() || axis >= shapes[input].size()) return place + " is not there";
      uint64_t expected = 0;  // sizes come from outside: a sum may wrap around, but must not be undefined
      for (const int32_t variable : assumption.variables) {
        expected += static_cast<uint64_t>(values[static_cast<size_t>(variable)]);
      }
      const int64_t size = shapes[input][axis];
      if (static_cast<uint64_t>(size) != expected) {
        return place + " is " + std::to_string(size) + ", and the plan is made for runs in which it is " +
               std::to_string(expected);
      }
    }
    return "";
  }

  // Null where the plan does not fit. May throw std::bad_alloc.
  std::shared_ptr<const Schedule> schedule(size_t variant, const std::vector<int64_t>& values) {
    return schedules_.find(plan_, variant, values);
  }

  // A run kept to this variant to its end.
  void kept() {
    if (trusted_.load(std::memory_order_relaxed)) return;
    trusted_.store(true, std::memory_order_relaxed);
    tried_.store(0, std::memory_order_relaxed);
  }

  // A run of this variant did something else. The next run follows the next variant; where runs have kept to this one
  // only if it happens twice in a row, since a run in which an operator fails leaves its plan, too. The first such run
  // of the session is told to those who operate it, unless there are variants that have not been tried yet: the
  // session's level of optimization is not known, and is found out in this way.
  void mismatched(size_t variant, const std::string& what) noexcept {
    if (!trusted_.exchange(false, std::memory_order_relaxed)) {
      size_t expected = variant;
      const size_t next = (variant + 1) % plan_.variants.size();
      if (variant_.compare_exchange_strong(expected, next, std::memory_order_relaxed)) {
        tried_.fetch_add(1, std::memory_order_relaxed);
      }
      if (tried_.load(std::memory_order_relaxed) < plan_.variants.size()) return;
    }
    warn(what);
  }

  // Says once that a run does without the plan.
  void warn(const std::string& what) noexcept {
    if (warned_.exchange(true, std::memory_order_relaxed)) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      if (warn_) {
        warn_(("the run does not follow its memory plan, and gets its memory from the heap: " + what).c_str());
      }
    } catch (...) {  // a warning that could not be said
    }
  }

  bool has_warned() const { return warned_.load(std::memory_order_relaxed); }

  // The session ends; there is no logger any more.
  void close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    warn_ = nullptr;
  }

 private:
  const Plan plan_;
  Pool& pool_;
  std::atomic<size_t> variant_{0};
  std::atomic<size_t> tried_{0};      // how many variants failed since a run kept to one
  std::atomic<bool> trusted_{false};  // the last run kept to its plan
  std::atomic<bool> warned_{false};
  Schedules schedules_;
  std::mutex mutex_;
  Warn warn_;
};

}  // namespace turbo_onnx::arena
