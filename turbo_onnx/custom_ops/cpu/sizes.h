// Arithmetic on sizes, without the standard library's templates: see vector.h for why.
#pragma once

#include <cstddef>

namespace turbo_onnx {
namespace TURBO_ISA {

constexpr size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
constexpr size_t larger(size_t a, size_t b) { return a < b ? b : a; }

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
