#include "custom_ops/arena/policy.h"

#include <cerrno>
#include <cstdlib>

#include "custom_ops/ort/status.h"

namespace turbo_onnx::arena {

Policy parse_policy(const std::string& text) {
  if (text == "off") return {Policy::kOff, 0};
  if (text == "grow") return {Policy::kGrow, 0};
  if (text == "trim") return {Policy::kTrim, 0};
  const std::string prefix = "limit:";
  const std::string digits = text.compare(0, prefix.size(), prefix) == 0 ? text.substr(prefix.size()) : "";
  errno = 0;
  const unsigned long long bytes = std::strtoull(digits.c_str(), nullptr, 10);
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos || errno != 0 || bytes == 0) {
    throw InvalidArgument("the session configuration entry turbo_onnx.arena is '" + text +
                          "', but must be off, grow, trim or limit:BYTES");
  }
  return {Policy::kLimit, static_cast<size_t>(bytes)};
}

}  // namespace turbo_onnx::arena
