#include "custom_ops/restore_padding/cpu.h"

#include <cstring>

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

// How many of the ascending values are below `bound`.
size_t count_below(const int64_t* values, size_t count, int64_t bound) {
  size_t low = 0, high = count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (values[middle] < bound) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

void restore_padding(const char* rows, size_t row_bytes, const int64_t* token_index, size_t tokens, char* output,
                     size_t positions, const Parallel& parallel) {
  constexpr size_t kBlock = 65536;
  if (row_bytes == 0) return;
  const size_t height = row_bytes >= kBlock ? 1 : kBlock / row_bytes;
  parallel((positions + height - 1) / height, [&](size_t item) {
    const size_t first = item * height;
    const size_t last = first + height < positions ? first + height : positions;
    size_t token = count_below(token_index, tokens, static_cast<int64_t>(first));
    for (size_t row = first; row < last; ++row) {
      char* to = output + row * row_bytes;
      if (token < tokens && static_cast<size_t>(token_index[token]) == row) {
        std::memcpy(to, rows + token * row_bytes, row_bytes);
        ++token;
      } else {
        std::memset(to, 0, row_bytes);
      }
    }
  });
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
