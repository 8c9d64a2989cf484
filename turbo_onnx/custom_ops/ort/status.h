// Errors inside this library are C++ exceptions; errors between it and ONNX Runtime are statuses. They change here.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#include "custom_ops/ort/abi.h"

namespace turbo_onnx {

// Something that the model or its inputs got wrong. The message is one sentence; ONNX Runtime puts the node before it.
struct InvalidArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws what a status says, and releases it.
inline void check(const abi::OrtApi* api, abi::OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = abi::GetErrorMessage(api, status);
  abi::ReleaseStatus(api, status);
  throw std::runtime_error(message);
}

// Runs `body`; an exception becomes the status that is returned, so that none ever crosses into ONNX Runtime.
template <class Body>
abi::OrtStatus* guarded(const abi::OrtApi* api, const char* who, Body&& body) noexcept {
  abi::ErrorCode code = abi::kFail;
  const char* what = "out of memory";
  try {
    try {
      body();
      return nullptr;
    } catch (const InvalidArgument& error) {
      return abi::CreateStatus(api, abi::kInvalidArgument, (std::string(who) + ": " + error.what()).c_str());
    } catch (const std::exception& error) {
      return abi::CreateStatus(api, abi::kFail, (std::string(who) + ": " + error.what()).c_str());
    }
  } catch (...) {  // not even the message could be made
  }
  return abi::CreateStatus(api, code, what);
}

}  // namespace turbo_onnx
