// What the arena costs, measured as a shared object, since the address of what is a thread's own is found more slowly
// in one. Nanoseconds, the least of several measurements.
#include <chrono>
#include <vector>

#include "tests/arena/runs.h"

#define PROBE extern "C" __attribute__((visibility("default")))

using namespace simulated;

namespace {

template <class Body>
double nanoseconds(int repetitions, Body&& body) {
  double least = 1e18;
  for (int attempt = 0; attempt < 9; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repetitions; ++i) body();
    const auto took = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    least = std::min(least, took / repetitions);
  }
  return least;
}

// `alive` buffers at once of one formula, freed in the order in which they were allocated.
Model chain(int buffers, int alive) {
  Model model;
  model.formulas.push_back({768, 1, 1, 0});
  std::vector<int> order;
  for (int i = 0; i < buffers; ++i) {
    if (i >= alive) model.events.push_back(i - alive + 1);
    model.events.push_back(0);
    model.buffers.push_back({0, true});
    order.push_back(i);
  }
  for (int i = std::max(0, buffers - alive); i < buffers; ++i) model.events.push_back(i + 1);
  model.orders.push_back(order);
  return model;
}

}  // namespace

// Of one allocation or free in a run that keeps to its plan, with an even part of what begins and ends the run.
PROBE double event_cost() {
  constexpr int kBuffers = 400, kAlive = 10;
  const Session session = open(chain(kBuffers, kAlive), "trim");
  const std::vector<std::vector<int64_t>> shapes{{4, 100}};
  std::vector<void*> memory(kBuffers);
  const double run = nanoseconds(200, [&] {
    arena::announce(session, shapes);
    for (int i = 0; i < kBuffers; ++i) {
      if (i >= kAlive) arena::deallocate(memory[static_cast<size_t>(i - kAlive)]);
      memory[static_cast<size_t>(i)] = arena::allocate(768 * 400);
    }
    for (int i = kBuffers - kAlive; i < kBuffers; ++i) arena::deallocate(memory[static_cast<size_t>(i)]);
  });
  return run / (2 * kBuffers);
}

// Of a run that does nothing but begin and end, at a shape that was seen before.
PROBE double run_cost() {
  const Session session = open(chain(1, 1), "trim");
  const std::vector<std::vector<int64_t>> shapes{{4, 100}};
  return nanoseconds(1000, [&] {
    arena::announce(session, shapes);
    arena::deallocate(arena::allocate(768 * 400));
  });
}

// Of the offsets of that many buffers at a new shape.
PROBE double schedule_cost(int buffers, int alive) {
  const arena::Plan plan = arena::parse_plan(chain(buffers, alive).text());
  int64_t length = 1;
  return nanoseconds(50, [&] { arena::make_schedule(plan, plan.variants[0], {4, ++length}); });
}

// Of an allocation and its free on the heap, where it keeps what it needs.
PROBE double heap_cost(size_t bytes) {
  return nanoseconds(1000, [&] { arena::deallocate(arena::allocate(bytes)); });
}
