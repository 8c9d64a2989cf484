// Reads the archive of compiled kernels that a model carries; `archive.py` writes it and describes the format.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "custom_ops/cuda/kernels.h"
#include "custom_ops/cuda/sha256.h"

namespace turbo_onnx::cuda {

// On which devices code runs, given the compute capability that it was compiled for. Best first.
enum class Rule : uint8_t { kExact = 0, kSameMajor = 1, kLater = 2 };

// One compiled kernel. Texts and code point into the archive's bytes.
struct Code {
  std::string_view key;        // by which it is found
  std::string_view symbol;     // its name in the module
  std::string_view arguments;  // one letter each, as in Argument::type
  Rule rule;
  bool aligned;     // whether every pointer must be a multiple of 16
  int capability;   // 10 * major + minor
  uint32_t warps;   // of 32 threads
  uint32_t shared;  // bytes of dynamic shared memory
  Tile tile;
  Digest digest;      // of the image
  const void* image;  // machine code, or PTX that ends with NUL
  size_t bytes;

  bool runs_on(int device_capability) const;
};

// All kernels, sorted by key; of each key the best first. Throws a sentence if the bytes are not an archive. Code is
// not read here: its digest is compared before it is loaded.
std::vector<Code> read_archive(const void* data, size_t bytes);

}  // namespace turbo_onnx::cuda
