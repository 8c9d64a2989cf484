// Memory that runs out when a test says so: every way in which the arena gets some can fail.
//
// The program is linked with --wrap for mmap, mremap and posix_memalign, and has its own operator new.
#pragma once

#include <cstddef>

namespace failing {

// While one of these lives, what this thread asks for is the arena's, and can fail.
class InArena {
 public:
  InArena();
  ~InArena();
};

// The request number `first` from now on fails, and `count` of them. Only the arena's are counted.
void arm(size_t first, size_t count);

// Returns how many requests there were since `arm`.
size_t disarm();

}  // namespace failing
