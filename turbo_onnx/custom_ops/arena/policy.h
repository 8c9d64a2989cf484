// What happens to the memory of a run's block when the run is over.
#pragma once

#include <cstddef>
#include <string>
#include <tuple>

namespace turbo_onnx::arena {

struct Policy {
  enum Kind {
    kOff,    // no plans: ONNX Runtime's own arena serves
    kGrow,   // kept for ever
    kTrim,   // what recent runs did not need is given back
    kLimit,  // as kTrim, and all blocks together never hold more than `limit` bytes
  };
  Kind kind = kTrim;
  size_t limit = 0;

  bool operator<(const Policy& other) const { return std::tie(kind, limit) < std::tie(other.kind, other.limit); }
};

// From "off", "grow", "trim" or "limit:BYTES". Throws InvalidArgument.
Policy parse_policy(const std::string& text);

}  // namespace turbo_onnx::arena
