// Environments of ONNX Runtime that come and go, which only a program in C++ can make.
//
//   environments ONNXRUNTIME_LIBRARY TURBO_ONNX_LIBRARY MODEL
//
// Prints for each round how many runs were announced so far, how many kept to their plan, and how many bytes of the
// heap are in use at the end.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "../runtime/ort_client.h"
#include "custom_ops/arena/stats.h"

namespace arena = turbo_onnx::arena;

namespace {

enum class Outlive { kNothing, kSession, kEnvironment };  // what the outputs of a round outlive

OrtSessionOptions* make_options(const char* library) {
  OrtSessionOptions* options = nullptr;
  check(CreateSessionOptions(api, &options));
  check(RegisterCustomOpsLibrary_V2(api, options, library));
  return options;
}

// `options`: made while there was another environment, or none; null for new ones.
void serve(const char* library, const char* model, Outlive outlive, OrtSessionOptions* options) {
  OrtEnv* environment = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  check(CreateEnv(api, 3, "environments", &environment));
  const bool own = options == nullptr;
  if (own) options = make_options(library);
  check(CreateSession(api, environment, model, options, &session));
  check(CreateCpuMemoryInfo(api, 1, 0, &memory));

  float x[10 * 16] = {};
  int64_t scale = 2, pick = 0;
  const int64_t x_shape[] = {10, 16}, pick_shape[] = {1};
  OrtValue* values[3] = {};
  OrtValue* outputs[2] = {};
  check(CreateTensorWithDataAsOrtValue(api, memory, x, sizeof x, x_shape, 2, kFloat, &values[0]));
  check(CreateTensorWithDataAsOrtValue(api, memory, &scale, sizeof scale, nullptr, 0, kInt64, &values[1]));
  check(CreateTensorWithDataAsOrtValue(api, memory, &pick, sizeof pick, pick_shape, 1, kInt64, &values[2]));
  const char* names[] = {"x", "scale", "pick"};
  const char* wanted[] = {"y", "picked"};
  check(Run(api, session, nullptr, names, values, 3, wanted, 2, outputs));
  for (OrtValue* value : values) ReleaseValue(api, value);
  ReleaseMemoryInfo(api, memory);

  const auto release_outputs = [&](bool now) {
    for (OrtValue* output : outputs) {
      if (now) ReleaseValue(api, output);
    }
  };
  release_outputs(outlive == Outlive::kNothing);
  ReleaseSession(api, session);
  if (own) ReleaseSessionOptions(api, options);
  release_outputs(outlive == Outlive::kSession);
  ReleaseEnv(api, environment);
  release_outputs(outlive == Outlive::kEnvironment);
}

}  // namespace

int main(int, char** arguments) {
  void* runtime = dlopen(arguments[1], RTLD_NOW);
  void* library = dlopen(arguments[2], RTLD_NOW);
  if (runtime == nullptr || library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  api = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"))()->GetApi(kApiVersion);
  const auto stats = reinterpret_cast<size_t (*)(int64_t*, size_t)>(dlsym(library, "turbo_onnx_arena_stats"));
  dlclose(library);  // it stays
  OrtSessionOptions* const early = make_options(arguments[2]);
  OrtSessionOptions* const rounds[] = {early, nullptr, nullptr, early, nullptr, early};
  for (int round = 0; round < 6; ++round) {
    serve(arguments[2], arguments[3], static_cast<Outlive>(round % 3), rounds[round]);
    int64_t numbers[arena::kStats];
    stats(numbers, arena::kStats);
    std::printf("%lld %lld %lld\n", static_cast<long long>(numbers[arena::kRunsAnnounced]),
                static_cast<long long>(numbers[arena::kRunsKept]),
                static_cast<long long>(numbers[arena::kHeapBytesInUse]));
  }
  ReleaseSessionOptions(api, early);
}
