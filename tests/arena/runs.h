// Runs of simulated models on the arena, each of which may leave its plan in one way.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "custom_ops/arena/blocks.h"
#include "custom_ops/arena/counters.h"
#include "custom_ops/arena/heap.h"
#include "custom_ops/arena/planned_session.h"
#include "custom_ops/arena/run.h"
#include "tests/arena/simulated_model.h"
#include "tests/arena/tenants.h"

namespace simulated {

namespace arena = turbo_onnx::arena;
using tenants::expect;
using tenants::give;
using tenants::Held;
using tenants::take;
using Session = std::shared_ptr<arena::PlannedSession>;

inline Session open(const Model& model, const std::string& policy) {
  const std::string text = model.text();
  const failing::InArena in_arena;
  return std::make_shared<arena::PlannedSession>(arena::parse_plan(text), arena::pool(arena::parse_policy(policy)),
                                                 nullptr);
}

inline void begin_run(const Session& session, const std::vector<std::vector<int64_t>>& shapes) {
  const failing::InArena in_arena;
  arena::announce(session, shapes);
}

enum class Deviation {
  kNone,
  kOtherSize,        // an allocation of another size
  kExtra,            // an allocation that the plan does not have
  kOtherFree,        // a buffer is freed in the place of another one
  kOtherThread,      // a free on another thread
  kOtherAllocation,  // an allocation on another thread, freed at the end
  kBroken,           // an operator fails; what is alive is freed, the last first
  kNested,           // an operator runs another planned model
  kLeft,             // the thread goes on with other things before what is alive is freed
  kNoOutputs,        // the caller brings memory for outputs
  kCount,
};

// What happens at one event of a run; `held` has an entry for each buffer.
struct Runner {
  const Model& model;
  const Session& session;
  Random& random;
  int64_t batch, length;
  std::vector<Held> held{model.buffers.size(), Held{nullptr, 0, 0}};
  bool failed = false;

  size_t bytes(int buffer) {
    const Buffer& b = model.buffers[static_cast<size_t>(buffer)];
    const int64_t size =
        b.formula < 0 ? between(random, 1, 300) : model.formulas[static_cast<size_t>(b.formula)].bytes(batch, length);
    return size < 0 ? 0 : static_cast<size_t>(size);
  }

  void allocate(int buffer, size_t size) {
    if (size == 0) return;
    held[static_cast<size_t>(buffer)] = take(size, static_cast<unsigned char>(random()));
    failed = failed || held[static_cast<size_t>(buffer)].memory == nullptr;
  }

  void free(int buffer) {
    Held& what = held[static_cast<size_t>(buffer)];
    if (what.memory != nullptr) give(what);
    what.memory = nullptr;
  }

  void free_all() {
    for (size_t i = held.size(); i-- > 0;) free(static_cast<int>(i));
  }
};

// Runs the model once. `others`, where given, gets what is alive at the end, to be freed somewhere else. Returns false
// where there was no memory.
inline bool run(const Model& model, const Session& session, Random& random, Deviation deviation,
                std::vector<Held>* others = nullptr, const std::vector<int64_t>* sizes = nullptr) {
  Runner runner{model, session, random, sizes ? (*sizes)[0] : between(random, 0, 6),
                sizes ? (*sizes)[1] : between(random, 0, 40)};
  begin_run(session, {{runner.batch, runner.length}});
  std::vector<int> events = model.events;
  const auto count = static_cast<int64_t>(events.size());
  const auto where = count == 0 ? 0 : static_cast<size_t>(between(random, 0, count - 1));
  std::vector<Held> extra;
  int next = 0;
  for (size_t i = 0; i < events.size() && !runner.failed; ++i) {
    const bool here = i == where;
    if (here && deviation == Deviation::kBroken) break;
    if (here && deviation == Deviation::kExtra) extra.push_back(take(static_cast<size_t>(between(random, 1, 500)), 7));
    if (here && deviation == Deviation::kNested) run(model, session, random, Deviation::kNone);
    if (here && deviation == Deviation::kLeft) begin_run(nullptr, {});
    if (i >= where && deviation == Deviation::kOtherFree && events[i] != 0) {
      const auto later = std::find_if(events.begin() + static_cast<std::ptrdiff_t>(i) + 1, events.end(),
                                      [&](int event) { return event != 0 && event <= next; });
      if (later != events.end()) std::swap(events[i], *later);
      deviation = Deviation::kNone;
    }
    if (here && deviation == Deviation::kOtherAllocation) {
      std::thread([&] { extra.push_back(take(100, 9)); }).join();
    }
    if (events[i] != 0) {
      const int buffer = events[i] - 1;
      if (here && deviation == Deviation::kOtherThread) {
        std::thread([&] { runner.free(buffer); }).join();
      } else {
        runner.free(buffer);
      }
      continue;
    }
    const int buffer = next++;
    const bool output = !model.buffers[static_cast<size_t>(buffer)].planned;
    if (output && deviation == Deviation::kNoOutputs && model.buffers[static_cast<size_t>(buffer)].formula >= 0)
      continue;
    const size_t size = runner.bytes(buffer);
    runner.allocate(buffer, here && deviation == Deviation::kOtherSize ? size + 1 : size);
  }
  for (const Held& what : extra) {
    if (what.memory != nullptr) give(what);
  }
  if (others != nullptr) {
    for (const Held& what : runner.held) {
      if (what.memory != nullptr) others->push_back(what);
    }
  } else {
    runner.free_all();
  }
  return !runner.failed;
}

inline void expect_all_returned() {
  begin_run(nullptr, {});  // a run that broke off is over
  expect(arena::block_usage().in_use == 0, "a block was not released");
  expect(arena::heap().usage().in_use == 0, "memory of the heap was not released");
}

}  // namespace simulated
