// What a program in C++ calls of ONNX Runtime's public C functions to serve a model, beside what our library uses.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "custom_ops/ort/abi.h"

using namespace turbo_onnx::abi;

struct OrtSession;
struct OrtRunOptions;

// clang-format off
constexpr Function<  7, OrtStatus*(const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**)> CreateSession{};
constexpr Function<  9, OrtStatus*(OrtSession*, const OrtRunOptions*, const char* const* inputs, const OrtValue* const* values, size_t, const char* const* outputs, size_t, OrtValue**)> Run{};
constexpr Function< 10, OrtStatus*(OrtSessionOptions**)> CreateSessionOptions{};
constexpr Function< 49, OrtStatus*(const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* shape, size_t rank, ElementType, OrtValue**)> CreateTensorWithDataAsOrtValue{};
constexpr Function< 94, void(OrtMemoryInfo*)> ReleaseMemoryInfo{};
constexpr Function< 95, void(OrtSession*)> ReleaseSession{};
constexpr Function< 96, void(OrtValue*)> ReleaseValue{};
constexpr Function<100, void(OrtSessionOptions*)> ReleaseSessionOptions{};
constexpr Function<228, OrtStatus*(OrtSessionOptions*, const char* path)> RegisterCustomOpsLibrary_V2{};
// clang-format on

inline const OrtApi* api;

inline void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", GetErrorMessage(api, status));
  std::exit(1);
}
