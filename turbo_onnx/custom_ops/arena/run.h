// The allocations and frees of a process, thread by thread: those of a run that keeps to its plan go to the run's
// block, all others to the heap.
//
// A run is a cursor over the steps of its schedule. While each allocation has the size that the next step has, and each
// free is the one that the next step is, everything that the plan says is free is free, and the step's offset can be
// given out. On the first difference the run lets go of its block: what is alive stays where it is until it is freed,
// by whichever thread, and the rest of the run is served from the heap. So no sequence of calls is wrong. A plan that
// does not fit is only of no use.
//
// Allocations of other threads than the one that announced the run are none of its concern.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/arena/planned_session.h"
#include "custom_ops/arena/recorder.h"

namespace turbo_onnx::arena {

// Memory for whatever comes next on this thread; null where there is none, and for no bytes.
void* allocate(size_t bytes) noexcept;

// Frees what `allocate`, or the heap's `reserve`, gave to any thread.
void deallocate(void* memory) noexcept;

// A run of the session begins on this thread, with inputs of these shapes. Null: the session has no plan, and only a
// recording wants to know.
void announce(const std::shared_ptr<PlannedSession>& session, const std::vector<std::vector<int64_t>>& shapes) noexcept;

// From now on this thread's allocations are written down; none of them comes from a block. False: no memory.
bool begin_recording() noexcept;

// Ends the recording and copies its events, as many as there is room for. Returns how many there are. They stay until
// the next recording of the thread.
size_t end_recording(Recorder::Event* out, size_t capacity) noexcept;

}  // namespace turbo_onnx::arena
