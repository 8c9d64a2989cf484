// A server in C++, as small as it gets: ONNX Runtime's public C functions, our library, one model, one run.
//
//   serve ONNXRUNTIME_LIBRARY TURBO_ONNX_LIBRARY MODEL
//
// The model has inputs x [2, 4] and bias [4], and one output [2, 4]; it is fed with x = 0, 1, … 7 and bias = 1.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "ort_client.h"

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
