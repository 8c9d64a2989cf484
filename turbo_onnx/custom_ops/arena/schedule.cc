#include "custom_ops/arena/schedule.h"

#include <algorithm>
#include <mutex>

#include "custom_ops/arena/forks.h"
#include "custom_ops/arena/pages.h"

namespace turbo_onnx::arena {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 40;  // of one buffer

// False where a number does not fit.
bool evaluate(const Formula& formula, const std::vector<int64_t>& values, int64_t& sum) {
  sum = 0;
  for (const Formula::Term& term : formula.terms) {
    int64_t product = term.coefficient;
    for (size_t i = 0; i < values.size(); ++i) {
      for (int power = 0; power < term.exponents[i]; ++power) {
        if (__builtin_mul_overflow(product, values[i], &product)) return false;
      }
    }
    if (__builtin_add_overflow(sum, product, &sum)) return false;
  }
  return sum >= 0 && sum <= kMostBytes;
}

const Order& choose_order(const Variant& variant, const std::vector<size_t>& sizes) {
  if (variant.tree.empty()) return variant.orders.front();
  int32_t target = 0;
  while (target >= 0) {
    const Decision& decision = variant.tree[static_cast<size_t>(target)];
    const bool yes = sizes[static_cast<size_t>(decision.formula)] <= sizes[static_cast<size_t>(decision.other)];
    target = yes ? decision.yes : decision.no;
  }
  return variant.orders[static_cast<size_t>(-(target + 1))];
}

// Writes each buffer's offset at its number; returns how much memory they take. The longest path through what lies on
// what: a topological order is given, so each buffer is looked at once. No sum can overflow: 2^16 buffers of 2^40
// bytes.
size_t stack(const Plan& plan, const Variant& variant, const std::vector<size_t>& sizes, std::vector<size_t>& offsets) {
  const Order& order = choose_order(variant, sizes);
  std::vector<size_t> ends(order.buffers.size());
  size_t most = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    size_t offset = 0;
    for (uint32_t at = order.first_below[i]; at < order.first_below[i + 1]; ++at) {
      offset = std::max(offset, ends[order.below[at]]);
    }
    const auto buffer = static_cast<size_t>(order.buffers[i]);
    offsets[buffer] = offset;
    ends[i] = offset + round_up(sizes[static_cast<size_t>(variant.buffers[buffer].formula)], plan.alignment);
    most = std::max(most, ends[i]);
  }
  return most;
}

}  // namespace

std::shared_ptr<const Schedule> make_schedule(const Plan& plan, const Variant& variant,
                                              const std::vector<int64_t>& values) {
  std::vector<size_t> sizes(plan.formulas.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    int64_t size = 0;
    if (!evaluate(plan.formulas[i], values, size)) return nullptr;
    sizes[i] = static_cast<size_t>(size);
  }
  auto schedule = std::make_shared<Schedule>();
  std::vector<size_t> offsets(variant.buffers.size());
  schedule->block_bytes = stack(plan, variant, sizes, offsets);
  std::vector<Step>& steps = schedule->steps;
  steps.reserve(variant.events.size() + 1);
  size_t end = 0;  // behind the last planned free
  int32_t next = 0;
  for (const int32_t event : variant.events) {
    const int32_t number = event == kAllocate ? next++ : event - 1;
    const Buffer& buffer = variant.buffers[static_cast<size_t>(number)];
    const size_t bytes = buffer.formula == kUnknown ? 0 : sizes[static_cast<size_t>(buffer.formula)];
    if (buffer.formula == kUnknown) {
      steps.push_back({0, 0, Step::kAny, number});
      ++schedule->unknown;
    } else if (bytes != 0 && event == kAllocate) {
      steps.push_back(
          {bytes, offsets[static_cast<size_t>(number)], buffer.planned ? Step::kServe : Step::kHeap, number});
      ++(buffer.planned ? schedule->served : schedule->outputs);
    } else if (bytes != 0) {
      steps.push_back({bytes, offsets[static_cast<size_t>(number)], Step::kRelease, number});
      end = steps.size();
    }
  }
  schedule->allocations_after = steps.size() - end;
  steps.resize(end);
  steps.push_back({0, 0, Step::kEnd, static_cast<int32_t>(variant.buffers.size())});
  return schedule;
}

std::shared_ptr<const Schedule> Schedules::find(const Plan& plan, size_t variant, const std::vector<int64_t>& values) {
  {
    const std::lock_guard<std::mutex> lock(schedules_lock());
    for (const Entry& entry : kept_) {
      if (entry.variant == variant && entry.values == values) return entry.schedule;
    }
  }
  auto schedule = make_schedule(plan, plan.variants[variant], values);
  if (schedule == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(schedules_lock());
  if (kept_.size() < kKept) {
    kept_.push_back({variant, values, schedule});
  } else {
    kept_[next_] = {variant, values, schedule};
    next_ = (next_ + 1) % kKept;
  }
  return schedule;
}

}  // namespace turbo_onnx::arena
