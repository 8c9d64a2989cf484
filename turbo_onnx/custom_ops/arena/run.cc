#include "custom_ops/arena/run.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "custom_ops/arena/blocks.h"
#include "custom_ops/arena/counters.h"
#include "custom_ops/arena/heap.h"
#include "custom_ops/arena/recorder.h"

namespace turbo_onnx::arena {
namespace {

// The run that is going on. One object for each thread, used again and again.
struct Run {
  const Step* step;  // the next one
  char* base;        // of the block; null until something is wanted of it
  Block* block;
  std::shared_ptr<const Schedule> schedule;
  std::shared_ptr<PlannedSession> session;
  size_t variant;
};

// A run that freed another buffer than its plan says. It failed, if it now frees the others and nothing is heard of it
// any more; if it goes on, it is a mismatch.
struct Doubtful {
  std::shared_ptr<PlannedSession> session;
  size_t variant;
  std::string what;
  const Block* block;
  int64_t alive;  // buffers in the block
};

// Has neither constructor nor destructor, so that using it costs no more than finding it.
struct Thread {
  Run* run;            // or null: none is going on
  Recorder* recorder;  // or null
  size_t off_plan;     // how many allocations a run that left its plan has still to make
  bool recording;
  bool ended;
  Run* idle;           // the object, while no run is going on
  Doubtful* doubtful;  // or null
};
thread_local Thread thread;

size_t steps_of(const Step* first, const Step* last, Step::Kind kind) {
  return static_cast<size_t>(std::count_if(first, last, [&](const Step& step) { return step.kind == kind; }));
}

void count_steps(const Step* first, const Step* last) {
  count(counters().served, static_cast<int64_t>(steps_of(first, last, Step::kServe)));
  count(counters().outputs, static_cast<int64_t>(steps_of(first, last, Step::kHeap)));
  count(counters().unknown, static_cast<int64_t>(steps_of(first, last, Step::kAny)));
}

void clear(Run& run) {
  thread.run = nullptr;
  thread.idle = &run;
  run.block = nullptr;
  run.base = nullptr;
  run.schedule.reset();
  run.session.reset();
}

// All planned buffers were allocated and freed.
void complete(Run& run) {
  const Schedule& schedule = *run.schedule;
  count(counters().kept);
  count(counters().served, static_cast<int64_t>(schedule.served));
  count(counters().outputs, static_cast<int64_t>(schedule.outputs));
  count(counters().unknown, static_cast<int64_t>(schedule.unknown));
  if (run.block != nullptr) {
    run.session->kept();
    run.session->pool().release(run.block);
  }
  clear(run);
  heap().planned_run_ended();
}

// The run goes on without its plan, or is over. Returns how many buffers are alive in its block.
int64_t leave(Run& run, Counter& reason) {
  count(reason);
  const Step* const first = run.schedule->steps.data();
  const Step* const last = first + run.schedule->steps.size();
  count_steps(first, run.step);
  const size_t alive = steps_of(first, run.step, Step::kServe) - steps_of(first, run.step, Step::kRelease);
  thread.off_plan = steps_of(run.step, last, Step::kServe) + steps_of(run.step, last, Step::kHeap) +
                    steps_of(run.step, last, Step::kAny) + run.schedule->allocations_after;
  if (run.block != nullptr) let_go(*run.block, static_cast<int64_t>(alive));
  clear(run);
  return static_cast<int64_t>(alive);
}

std::string text(const Step& step) {
  const std::string buffer = "buffer " + std::to_string(step.buffer);
  switch (step.kind) {
    case Step::kRelease:
      return buffer + " is to be freed";
    case Step::kAny:
      return buffer + " is to be allocated";
    case Step::kEnd:
      return "nothing more is to be allocated";
    default:
      return buffer + " is to be allocated with " + std::to_string(step.bytes) + " bytes";
  }
}

std::string deviation(const Run& run, const char* instead) {
  return run.session->has_warned() ? "" : "where " + text(*run.step) + ", " + instead;
}

void mismatch(Run& run, size_t bytes) {
  const std::shared_ptr<PlannedSession> session = run.session;
  const size_t variant = run.variant;
  const std::string what = deviation(run, (std::to_string(bytes) + " bytes are allocated").c_str());
  leave(run, counters().mismatched);
  session->mismatched(variant, what);
}

void forget_doubt() {
  delete thread.doubtful;
  thread.doubtful = nullptr;
}

// A buffer was freed that was not to be freed next.
void doubt(Run& run) {
  auto doubtful = std::make_unique<Doubtful>(
      Doubtful{run.session, run.variant, deviation(run, "another one is freed"), run.block, 0});
  doubtful->alive = leave(run, counters().abandoned);
  forget_doubt();
  thread.doubtful = doubtful.release();
}

// This thread freed a buffer that no run is asked about any more.
void freed_off_plan(const Block* block) {
  Doubtful* const doubtful = thread.doubtful;
  if (doubtful == nullptr || doubtful->block != block || --doubtful->alive > 0) return;
  forget_doubt();
  thread.off_plan = 0;
}

void* from_heap(size_t bytes) {
  if (thread.off_plan != 0) {
    --thread.off_plan;
    count(counters().off_plan);
  }
  if (thread.doubtful != nullptr) {
    count(counters().abandoned, -1);
    count(counters().mismatched);
    thread.doubtful->session->mismatched(thread.doubtful->variant, thread.doubtful->what);
    forget_doubt();
  }
  return heap().allocate(bytes);
}

// A step from the heap, the first from the block, or a mismatch. Outputs that the caller brought are not allocated:
// here and below, steps from the heap may be missing.
void* allocate_slowly(Run& run, size_t bytes) {
  const Step* step = run.step;
  while (step->kind == Step::kHeap && step->bytes != bytes) ++step;
  if (step->kind == Step::kAny || step->kind == Step::kHeap) {
    run.step = step + 1;
    return heap().allocate(bytes);
  }
  if (step->kind == Step::kServe && step->bytes == bytes) {
    if (run.block == nullptr) {
      run.block = run.session->pool().acquire(run.schedule->block_bytes);
      if (run.block == nullptr) {
        leave(run, counters().over_limit);
        return from_heap(bytes);
      }
      run.base = run.block->base;
    }
    run.step = step + 1;
    return run.base + step->offset;
  }
  mismatch(run, bytes);
  return from_heap(bytes);
}

void free_slowly(Run& run, void* memory) {
  Block* block = block_of(memory);
  if (block == nullptr) return heap().release(memory);
  if (block == run.block) {
    const Step* step = run.step;
    while (step->kind == Step::kHeap) ++step;
    if (step->kind == Step::kRelease && memory == run.base + step->offset) {
      run.step = step + 1;
      if (run.step->kind == Step::kEnd) complete(run);
      return;
    }
    doubt(run);
  }
  freed_off_plan(block);
  free_in_block(*block);
}

// The run that was going on will get no further.
void break_off() {
  if (thread.run != nullptr) leave(*thread.run, counters().abandoned);
  thread.off_plan = 0;
  forget_doubt();
}

void begin(const std::shared_ptr<PlannedSession>& session, std::shared_ptr<const Schedule> schedule, size_t variant) {
  Run* run = thread.idle;
  if (run == nullptr) run = new Run{};
  run->step = schedule->steps.data();
  run->schedule = std::move(schedule);
  run->session = session;
  run->variant = variant;
  thread.idle = nullptr;
  thread.run = run;
  if (run->step->kind == Step::kEnd) complete(*run);
}

struct AtThreadExit {
  ~AtThreadExit() {
    break_off();
    delete thread.idle;
    delete thread.recorder;
    thread = {};
    thread.ended = true;
  }
  // What is thread-local is made when it is first used.
  void touch() {}
};
thread_local AtThreadExit at_thread_exit;

}  // namespace

void* allocate(size_t bytes) noexcept {
  Run* const run = thread.run;
  if (run != nullptr) {
    const Step* const step = run->step;
    if (step->kind == Step::kServe && step->bytes == bytes && run->base != nullptr) {
      run->step = step + 1;
      return run->base + step->offset;
    }
    try {
      return allocate_slowly(*run, bytes);
    } catch (const std::bad_alloc&) {  // for a sentence; nothing has changed
      leave(*run, counters().mismatched);
      return from_heap(bytes);
    }
  }
  void* const memory = from_heap(bytes);
  if (thread.recording && memory != nullptr) thread.recorder->allocated(memory, bytes);
  return memory;
}

void deallocate(void* memory) noexcept {
  if (memory == nullptr) return;
  Run* const run = thread.run;
  if (run != nullptr) {
    const Step* const step = run->step;
    if (step->kind == Step::kRelease && memory == run->base + step->offset) {
      run->step = step + 1;
      if (run->step->kind == Step::kEnd) complete(*run);
      return;
    }
    try {
      return free_slowly(*run, memory);
    } catch (const std::bad_alloc&) {
      leave(*run, counters().mismatched);
    }
  }
  if (thread.recording) thread.recorder->freed(memory);
  Block* const block = block_of(memory);
  if (block != nullptr) {
    freed_off_plan(block);
    free_in_block(*block);
  } else {
    heap().release(memory);
  }
}

void announce(const std::shared_ptr<PlannedSession>& session,
              const std::vector<std::vector<int64_t>>& shapes) noexcept {
  break_off();
  if (thread.recording) thread.recorder->marker(shapes);
  if (session == nullptr || thread.recording || thread.ended) return;
  count(counters().announced);
  at_thread_exit.touch();
  const size_t variant = session->variant();
  try {
    std::vector<int64_t> values;
    const bool readable = session->read(shapes, values);
    const std::string unlike = readable ? session->unlike(shapes, values) : "";
    if (!unlike.empty()) {  // which says nothing of the variant
      count(counters().mismatched);
      return session->warn(unlike);
    }
    auto schedule = readable ? session->schedule(variant, values) : nullptr;
    if (schedule == nullptr) {
      count(counters().mismatched);
      return session->mismatched(variant, "the plan has no sizes for inputs of these shapes");
    }
    begin(session, std::move(schedule), variant);
  } catch (const std::bad_alloc&) {
    count(counters().over_limit);
  }
}

bool begin_recording() noexcept {
  break_off();
  if (thread.ended) return false;
  at_thread_exit.touch();
  delete thread.recorder;
  thread.recorder = new (std::nothrow) Recorder;
  thread.recording = thread.recorder != nullptr;
  return thread.recording;
}

size_t end_recording(Recorder::Event* out, size_t capacity) noexcept {
  thread.recording = false;
  if (thread.recorder == nullptr) return 0;
  const auto& events = thread.recorder->events();
  std::copy_n(events.begin(), std::min(events.size(), capacity), out);
  return events.size();
}

}  // namespace turbo_onnx::arena
