// What an operator sees of one run of its node: its inputs, its outputs, and the thread pool.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "custom_ops/ort/abi.h"
#include "custom_ops/ort/parallel.h"
#include "custom_ops/ort/status.h"
#include "custom_ops/ort/widening.h"

namespace turbo_onnx {

using Shape = std::vector<int64_t>;

inline std::string text(const Shape& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

// A tensor of ONNX Runtime's. An absent optional input has no data and `present` is false. On a device the data is
// there, and must not be read here.
struct Tensor {
  bool present = false;
  abi::ElementType type = abi::kUndefined;
  Shape shape;
  void* data = nullptr;

  explicit operator bool() const { return present; }

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }

  // Product of the dimensions in [first, last).
  size_t count(size_t first, size_t last) const {
    size_t product = 1;
    for (size_t i = first; i < last; ++i) product *= static_cast<size_t>(shape[i]);
    return product;
  }
  size_t count() const { return count(0, shape.size()); }
  size_t last_dimension() const { return static_cast<size_t>(shape.back()); }
};

inline void append(std::string& sentence, const std::string& part) { sentence += part; }
inline void append(std::string& sentence, const Shape& part) { sentence += text(part); }
inline void append(std::string& sentence, int64_t part) { sentence += std::to_string(part); }

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::string sentence;
  (append(sentence, parts), ...);
  throw InvalidArgument(sentence);
}

// Throws the sentence, which is only put together when it is needed.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) refuse(parts...);
}

// Requires a tensor, where it is present, to be a vector of `length` elements.
inline void require_vector(const Tensor& tensor, const char* name, size_t length) {
  if (tensor) {
    require(tensor.shape.size() == 1 && tensor.count() == length, name, " has shape ", tensor.shape,
            ", but must be a vector of ", static_cast<int64_t>(length));
  }
}

// The tensor that a value of ONNX Runtime's is.
inline Tensor describe(const abi::OrtApi* api, abi::OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  tensor.present = true;
  abi::OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, abi::GetTensorTypeAndShape(api, value, &info));
  struct Release {
    const abi::OrtApi* api;
    abi::OrtTensorTypeAndShapeInfo* info;
    ~Release() { abi::ReleaseTensorTypeAndShapeInfo(api, info); }
  } release{api, info};
  size_t rank = 0;
  check(api, abi::GetTensorElementType(api, info, &tensor.type));
  check(api, abi::GetDimensionsCount(api, info, &rank));
  tensor.shape.resize(rank);
  check(api, abi::GetDimensions(api, info, tensor.shape.data(), rank));
  check(api, abi::GetTensorMutableData(api, value, &tensor.data));
  return tensor;
}

class Context {
 public:
  // With a `widening`, float16 and bfloat16 tensors look like float32 to the operator.
  Context(const abi::OrtApi* api, abi::OrtKernelContext* context, Widening* widening = nullptr)
      : api_(api), context_(context), widening_(widening) {
    check(api, abi::KernelContext_GetInputCount(api, context, &inputs_));
    check(api, abi::KernelContext_GetOutputCount(api, context, &outputs_));
  }

  Tensor input(size_t index) const {
    const abi::OrtValue* value = nullptr;
    if (index < inputs_) check(api_, abi::KernelContext_GetInput(api_, context_, index, &value));
    Tensor tensor = describe(api_, const_cast<abi::OrtValue*>(value));
    if (widening_ != nullptr && Widening::applies(tensor.type)) {
      tensor.data = widening_->input(tensor.data, tensor.type, tensor.count());
      tensor.type = abi::kFloat;
    }
    return tensor;
  }

  // Allocates an output and returns its data; null when nothing reads it.
  template <class T>
  T* output(size_t index, const Shape& shape) const {
    abi::OrtValue* value = nullptr;
    if (index >= outputs_) return nullptr;
    check(api_, abi::KernelContext_GetOutput(api_, context_, index, shape.data(), shape.size(), &value));
    if (value == nullptr) return nullptr;
    if (widening_ == nullptr) {
      void* data = nullptr;
      check(api_, abi::GetTensorMutableData(api_, value, &data));
      return static_cast<T*>(data);
    }
    const Tensor tensor = describe(api_, value);
    const bool widened = Widening::applies(tensor.type);
    return static_cast<T*>(widened ? widening_->output(tensor.data, tensor.type, tensor.count()) : tensor.data);
  }

  // The stream that a GPU's node has to run on; null is the default stream.
  void* stream() const {
    void* stream = nullptr;
    check(api_, abi::KernelContext_GetGPUComputeStream(api_, context_, &stream));
    return stream;
  }

  // Valid as long as the context.
  Parallel parallel() const { return {const_cast<Context*>(this), &Context::dispatch}; }

 private:
  static void dispatch(void* self, void (*body)(void*, size_t), size_t total, void* user) {
    const Context& context = *static_cast<Context*>(self);
    check(context.api_, abi::KernelContext_ParallelFor(context.api_, context.context_, body, total, 0, user));
  }

  const abi::OrtApi* api_;
  abi::OrtKernelContext* context_;
  Widening* widening_;
  size_t inputs_ = 0;
  size_t outputs_ = 0;
};

}  // namespace turbo_onnx
