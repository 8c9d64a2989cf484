// The part of ONNX Runtime's C interface that this library uses, declared by ourselves.
//
// No package carries ONNX Runtime's headers, and a library built against one release's headers is refused by older
// releases. What is used here has been stable since API version 18, so one build runs on every release from 1.20 on.
//
// OrtApi is a table of function pointers that only ever grows: a function is its position and its type.
#pragma once

#include <cstddef>
#include <cstdint>

namespace turbo_onnx::abi {

// The version that is asked for, and the version of OrtCustomOp that is filled in.
constexpr uint32_t kApiVersion = 18;

struct OrtApi;  // a table of function pointers, see Function
struct OrtStatus;
struct OrtEnv;
struct OrtLogger;
struct OrtMemoryInfo;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);  // null when the runtime is older than `version`
  const char* (*GetVersionString)();
};

// ONNXTensorElementDataType; the same numbers as onnx.TensorProto.DataType.
enum ElementType : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kBFloat16 = 16,
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum MemoryType : int { kCpuInputMemory = -2, kDefaultMemory = 0 };

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  ElementType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ElementType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  MemoryType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int** inputs, int** outputs);  // takes no operator: one function for each
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
static_assert(sizeof(void*) != 8 || sizeof(OrtCustomOp) == 208, "OrtCustomOp is 26 words");

// What ONNX Runtime asks for memory. `Reserve` is for what lives as long as a session. Versions from 23 on have more
// members, which a lower version says are not there.
struct OrtAllocator {
  uint32_t version;
  void* (*Alloc)(OrtAllocator*, size_t bytes);
  void (*Free)(OrtAllocator*, void* memory);
  const OrtMemoryInfo* (*Info)(const OrtAllocator*);
  void* (*Reserve)(OrtAllocator*, size_t bytes);
  void* later[3];
};
static_assert(sizeof(void*) != 8 || sizeof(OrtAllocator) == 64, "OrtAllocator is 8 words");

// One function of the table: `CreateStatus(api, code, "message")` calls the pointer at its position.
template <size_t Position, class Signature>
struct Function;

template <size_t Position, class Result, class... Arguments>
struct Function<Position, Result(Arguments...)> {
  Result operator()(const OrtApi* api, Arguments... arguments) const {
    using Pointer = Result (*)(Arguments...);
    return reinterpret_cast<const Pointer*>(api)[Position](arguments...);
  }
};

// clang-format off
constexpr Function<  0, OrtStatus*(ErrorCode, const char* message)> CreateStatus{};
constexpr Function<  2, const char*(const OrtStatus*)> GetErrorMessage{};
constexpr Function<  3, OrtStatus*(int severity, const char* name, OrtEnv**)> CreateEnv{};
constexpr Function< 17, OrtStatus*(OrtSessionOptions*)> DisableMemPattern{};
constexpr Function< 26, OrtStatus*(const char* name, OrtCustomOpDomain**)> CreateCustomOpDomain{};
constexpr Function< 27, OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)> CustomOpDomain_Add{};
constexpr Function< 28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)> AddCustomOpDomain{};
constexpr Function< 51, OrtStatus*(OrtValue*, void** data)> GetTensorMutableData{};
constexpr Function< 60, OrtStatus*(const OrtTensorTypeAndShapeInfo*, ElementType*)> GetTensorElementType{};
constexpr Function< 61, OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t* rank)> GetDimensionsCount{};
constexpr Function< 62, OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t* dims, size_t rank)> GetDimensions{};
constexpr Function< 65, OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)> GetTensorTypeAndShape{};
constexpr Function< 69, OrtStatus*(int allocator, int memory, OrtMemoryInfo**)> CreateCpuMemoryInfo{};
constexpr Function< 85, OrtStatus*(const OrtKernelInfo*, const char* name, float*)> KernelInfoGetAttribute_float{};
constexpr Function< 86, OrtStatus*(const OrtKernelInfo*, const char* name, int64_t*)> KernelInfoGetAttribute_int64{};
constexpr Function< 87, OrtStatus*(const OrtKernelInfo*, const char* name, char*, size_t*)> KernelInfoGetAttribute_string{};
constexpr Function< 88, OrtStatus*(const OrtKernelContext*, size_t*)> KernelContext_GetInputCount{};
constexpr Function< 89, OrtStatus*(const OrtKernelContext*, size_t*)> KernelContext_GetOutputCount{};
constexpr Function< 90, OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)> KernelContext_GetInput{};
constexpr Function< 91, OrtStatus*(OrtKernelContext*, size_t, const int64_t* dims, size_t rank, OrtValue**)> KernelContext_GetOutput{};
constexpr Function< 92, void(OrtEnv*)> ReleaseEnv{};
constexpr Function< 93, void(OrtStatus*)> ReleaseStatus{};
constexpr Function< 99, void(OrtTensorTypeAndShapeInfo*)> ReleaseTensorTypeAndShapeInfo{};
constexpr Function<127, OrtStatus*(const OrtValue*, size_t index, size_t* length)> GetStringTensorElementLength{};
constexpr Function<128, OrtStatus*(const OrtValue*, size_t length, size_t index, void* string)> GetStringTensorElement{};
constexpr Function<130, OrtStatus*(OrtSessionOptions*, const char* key, const char* value)> AddSessionConfigEntry{};
constexpr Function<176, OrtStatus*(OrtEnv*, OrtAllocator*)> RegisterAllocator{};
constexpr Function<193, OrtStatus*(const OrtKernelContext*, void** stream)> KernelContext_GetGPUComputeStream{};
constexpr Function<237, OrtStatus*(const OrtSessionOptions*, const char* key, int*)> HasSessionConfigEntry{};
constexpr Function<238, OrtStatus*(const OrtSessionOptions*, const char* key, char* value, size_t* size)> GetSessionConfigEntry{};
constexpr Function<245, OrtStatus*(const OrtKernelInfo*, const OrtLogger**)> KernelInfo_GetLogger{};
constexpr Function<247, OrtStatus*(const OrtLogger*, int severity, const char* message, const char* file, int line, const char* function)> Logger_LogMessage{};
constexpr Function<249, OrtStatus*(const OrtKernelInfo*, size_t, int* is_constant, const OrtValue**)> KernelInfoGetConstantInput_tensor{};
constexpr Function<252, OrtStatus*(OrtValue*, size_t index, size_t length, char** string)> GetResizedStringTensorElementBuffer{};
constexpr Function<274, OrtStatus*(const OrtKernelContext*, void (*)(void*, size_t), size_t total, size_t batches, void*)> KernelContext_ParallelFor{};
// clang-format on

}  // namespace turbo_onnx::abi
