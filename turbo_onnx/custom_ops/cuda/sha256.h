// SHA-256, as FIPS 180-4 defines it: by it code is known to be what was compiled.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace turbo_onnx::cuda {

using Digest = std::array<uint8_t, 32>;

Digest sha256(const void* data, size_t bytes);

}  // namespace turbo_onnx::cuda
