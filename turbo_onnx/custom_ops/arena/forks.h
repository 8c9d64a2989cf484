// A process that forks while other threads run: the child has the thread that forked and no other, but all memory as it
// was. What a lock guards must not be in the middle of a change then, and the lock must not be held for ever.
//
// So all locks of this process are taken before a fork, in the order in which they may be taken together, and let go of
// after it, in parent and child. Locks of single objects are not among them; sessions share one for that reason.
#pragma once

#include <mutex>

namespace turbo_onnx::arena {

// Held while the library is registered with session options, or its allocator with an environment.
std::mutex& registration_lock();

// Of the schedules that all sessions keep.
std::mutex& schedules_lock();

}  // namespace turbo_onnx::arena
