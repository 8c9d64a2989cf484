// A server in C++, as small as it gets: ONNX Runtime's public C functions, our library, one model, one run.
//
//   serve ONNXRUNTIME_LIBRARY TURBO_ONNX_LIBRARY MODEL
//
// The model has inputs x [2, 4] and bias [4], and one output [2, 4]; it is fed with x = 0, 1, … 7 and bias = 1.
#include <dlfcn.h>

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

static const OrtApi* api;

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", GetErrorMessage(api, status));
  std::exit(1);
}

int main(int, char** arguments) {
  void* runtime = dlopen(arguments[1], RTLD_NOW);
  if (runtime == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  const auto get_base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(runtime, "OrtGetApiBase"));
  api = get_base()->GetApi(kApiVersion);

  OrtEnv* env = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  check(CreateEnv(api, 3, "serve", &env));
  check(CreateSessionOptions(api, &options));
  check(RegisterCustomOpsLibrary_V2(api, options, arguments[2]));
  check(CreateSession(api, env, arguments[3], options, &session));
  check(CreateCpuMemoryInfo(api, 1, 0, &memory));

  float x[8], bias[4] = {1, 1, 1, 1};
  for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(i);
  const int64_t x_shape[] = {2, 4}, bias_shape[] = {4};
  OrtValue* values[2] = {};
  OrtValue* output = nullptr;
  check(CreateTensorWithDataAsOrtValue(api, memory, x, sizeof x, x_shape, 2, kFloat, &values[0]));
  check(CreateTensorWithDataAsOrtValue(api, memory, bias, sizeof bias, bias_shape, 1, kFloat, &values[1]));
  const char* inputs[] = {"x", "bias"};
  const char* outputs[] = {"output"};
  check(Run(api, session, nullptr, inputs, values, 2, outputs, 1, &output));

  void* data = nullptr;
  check(GetTensorMutableData(api, output, &data));
  for (int i = 0; i < 8; ++i) std::printf("%.9g\n", static_cast<double>(static_cast<float*>(data)[i]));

  ReleaseValue(api, output);
  for (OrtValue* value : values) ReleaseValue(api, value);
  ReleaseMemoryInfo(api, memory);
  ReleaseSession(api, session);
  ReleaseSessionOptions(api, options);
  ReleaseEnv(api, env);
}
