#pragma once

#include <cstddef>
#include <cstdint>

#include "custom_ops/ort/parallel.h"

namespace turbo_onnx {

// output[token_index[t]] = rows[t], and zero bytes in every row of output that no token goes to. Rows are `row_bytes`
// long. token_index must be strictly ascending, in [0, positions).
using RestorePaddingKernel = void(const char* rows, size_t row_bytes, const int64_t* token_index, size_t tokens,
                                  char* output, size_t positions, const Parallel& parallel);

namespace TURBO_ISA {
RestorePaddingKernel restore_padding;
}

}  // namespace turbo_onnx
