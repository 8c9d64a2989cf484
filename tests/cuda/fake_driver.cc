// A CUDA driver without a device, for tests: it checks every handle, context and limit as the real one is documented
// to, records each call, and hands launches to a callback. Device memory is host memory.
//
// An image is the NUL-terminated text "FAKE <capability> <rule> <anything>" with the numbers of the archive's entry.
// Nothing is ever freed, so that a handle that is used too late is known to be wrong.
#include <algorithm>
#include <chrono>
#include <thread>

#include "fake_state.h"

#define FAKE extern "C" __attribute__((visibility("default")))

using namespace turbo_onnx::cuda;

// Control, for tests.

// Everything as in the beginning: one device of sm_90, its context current on every thread. Old handles are invalid.
FAKE void fake_reset() {
  const std::lock_guard<std::mutex> lock(mutex);
  const bool initialized = fake != nullptr && fake->initialized;  // a library that has the driver open stays so
  reset();
  fake->initialized = initialized;
}

// Adds the device, or changes it. `max_shared`: bytes of shared memory of one block, where asked for.
FAKE void fake_set_device(int ordinal, int capability, int max_shared) {
  Call call("");
  set_device(ordinal, capability, max_shared);
}

FAKE void fake_set_driver_version(int version) {
  Call call("");
  fake->version = version;
}

// One more context of the device, beside its primary one.
FAKE CUcontext fake_context(int ordinal) {
  Call call("");
  return fake->make_context(ordinal);
}

// Makes the context current on the calling thread, in place of all that are; null: none.
FAKE void fake_set_current_context(CUcontext context) {
  Call call("");
  stack().contexts = {context};
}

// The same with the device's primary context; -1: none.
FAKE void fake_set_current(int ordinal) {
  Call call("");
  stack().contexts = {ordinal < 0 ? nullptr : fake->devices.at(ordinal).primary};
}

FAKE CUstream fake_stream_in(CUcontext context) {
  Call call("");
  auto* stream = new Stream{fake->streams_made++, context};
  fake->streams.insert(stream);
  return stream;
}

// A stream of the device's primary context.
FAKE CUstream fake_stream(int ordinal) {
  CUcontext primary;
  {
    Call call("");
    primary = fake->devices.at(ordinal).primary;
  }
  return fake_stream_in(primary);
}

// The call of the function that is number `after` from now, from 1, does nothing and returns the result. Once.
FAKE void fake_fail(const char* function, CUresult result, int after) {
  Call call("");
  fake->failures.emplace(function, Failure{result, after});
}

// One line for each call: its name, without version, and its main arguments. Valid until this thread's next call of it.
FAKE const char* fake_log() {
  static thread_local std::string copy;
  Call call("");
  copy = fake->log;
  return copy.c_str();
}

FAKE void fake_clear_log() {
  Call call("");
  fake->log.clear();
}

// Contexts that were pushed and not popped on this thread.
FAKE int fake_depth() {
  Call call("");
  return static_cast<int>(stack().contexts.size()) - 1;
}

// How long loading takes, in microseconds. Other calls do not wait for it.
FAKE void fake_set_load_delay(int delay) {
  Call call("");
  fake->load_delay = delay;
}

// How many images were being loaded at one time, at most.
FAKE int fake_most_loading() {
  Call call("");
  return fake->most_loading;
}

// What a launch does. It is called without a lock, on the launching thread, and returns the launch's result.
FAKE void fake_set_launch(LaunchCallback launch) {
  Call call("");
  fake->launch = launch;
}

// The driver.

FAKE CUresult cuInit(unsigned flags) {
  Call call("cuInit");
  if (const CUresult result = call.begin()) return result;
  if (flags != 0) return kInvalidValue;
  fake->initialized = true;
  return kSuccess;
}

FAKE CUresult cuDriverGetVersion(int* version) {
  Call call("cuDriverGetVersion");
  if (const CUresult result = call.begin()) return result;
  *version = fake->version;
  return kSuccess;
}

FAKE CUresult cuGetErrorName(CUresult error, const char** name) {
  const Named* entry = named(error);
  *name = entry == nullptr ? nullptr : entry->name;
  return entry == nullptr ? kInvalidValue : CUresult{kSuccess};
}

FAKE CUresult cuGetErrorString(CUresult error, const char** text) {
  const Named* entry = named(error);
  *text = entry == nullptr ? nullptr : entry->text;
  return entry == nullptr ? kInvalidValue : CUresult{kSuccess};
}

FAKE CUresult cuCtxGetCurrent(CUcontext* context) {
  Call call("cuCtxGetCurrent");
  if (const CUresult result = call.begin()) return result;
  *context = current();
  return kSuccess;
}

FAKE CUresult cuCtxPushCurrent_v2(CUcontext context) {
  Call call("cuCtxPushCurrent");
  if (const CUresult result = call.begin("context=" + text(context))) return result;
  if (fake->contexts.count(context) == 0) return kInvalidContext;
  stack().contexts.push_back(context);
  return kSuccess;
}

FAKE CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  Call call("cuCtxPopCurrent");
  if (const CUresult result = call.begin("context=" + text(current()))) return result;
  if (current() == nullptr) return kInvalidContext;
  *context = current();
  stack().contexts.pop_back();
  return kSuccess;
}

FAKE CUresult cuCtxGetDevice(CUdevice* device) {
  Call call("cuCtxGetDevice");
  if (const CUresult result = call.begin()) return result;
  if (current() == nullptr) return kInvalidContext;
  *device = current()->device;
  return kSuccess;
}

FAKE CUresult cuDeviceGetAttribute(int* value, Attribute attribute, CUdevice ordinal) {
  Call call("cuDeviceGetAttribute");
  if (const CUresult result = call.begin(std::to_string(attribute) + " device=" + std::to_string(ordinal))) {
    return result;
  }
  const auto found = fake->devices.find(ordinal);
  if (found == fake->devices.end()) return kInvalidDevice;
  switch (attribute) {
    case kComputeCapabilityMajor:
      *value = found->second.capability / 10;
      return kSuccess;
    case kComputeCapabilityMinor:
      *value = found->second.capability % 10;
      return kSuccess;
    case kMaxSharedMemoryOptin:
      *value = found->second.max_shared;
      return kSuccess;
  }
  return kInvalidValue;
}

FAKE CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  Call call("cuStreamGetCtx");
  if (const CUresult result = call.begin("stream=" + text(stream))) return result;
  if (fake->streams.count(stream) == 0) return kInvalidHandle;
  *context = static_cast<Stream*>(stream)->context;
  return kSuccess;
}

FAKE CUresult cuStreamSynchronize(CUstream stream) {
  Call call("cuStreamSynchronize");
  if (const CUresult result = call.begin("stream=" + text(stream))) return result;
  return check_stream(stream);
}

FAKE CUresult cuMemcpyDtoHAsync_v2(void* host, CUdeviceptr device, size_t bytes, CUstream stream) {
  Call call("cuMemcpyDtoHAsync");
  if (const CUresult result = call.begin("bytes=" + std::to_string(bytes) + " stream=" + text(stream))) return result;
  if (const CUresult result = check_stream(stream)) return result;
  if (host == nullptr || device == 0) return kInvalidValue;
  std::memcpy(host, reinterpret_cast<const void*>(device), bytes);
  return kSuccess;
}

FAKE CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  Call call("cuModuleLoadData");
  const bool known = image != nullptr && check_image(image, 0) != kInvalidImage;
  const std::string name = known ? static_cast<const char*>(image) : "unknown";
  if (const CUresult result = call.begin("[" + name + "] context=" + text(current()))) return result;
  if (current() == nullptr) return kInvalidContext;
  if (const CUresult result = check_image(image, fake->devices.at(current()->device).capability)) return result;
  fake->most_loading = std::max(fake->most_loading, ++fake->loading);
  const auto delay = std::chrono::microseconds(fake->load_delay);
  call.unlock();
  std::this_thread::sleep_for(delay);
  call.lock();
  --fake->loading;
  *module = new CUmod_st{current(), name};
  fake->modules.insert(*module);
  return kSuccess;
}

FAKE CUresult cuModuleUnload(CUmodule module) {
  Call call("cuModuleUnload");
  if (const CUresult result = call.begin(text(module))) return result;
  if (fake->modules.count(module) == 0) return kInvalidHandle;
  if (module->context != current()) return kInvalidContext;
  fake->modules.erase(module);
  return kSuccess;
}

// Every image has every function, except one named "missing".
FAKE CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  Call call("cuModuleGetFunction");
  if (const CUresult result = call.begin(std::string(name) + text(module))) return result;
  if (fake->modules.count(module) == 0) return kInvalidHandle;
  if (module->context != current()) return kInvalidContext;
  if (std::strcmp(name, "missing") == 0) return kNotFound;
  *function = new CUfunc_st{module, name};
  fake->functions.insert(*function);
  return kSuccess;
}

FAKE CUresult cuFuncSetAttribute(CUfunction function, FunctionAttribute attribute, int value) {
  Call call("cuFuncSetAttribute");
  if (const CUresult result =
          call.begin(text(function) + " " + std::to_string(attribute) + "=" + std::to_string(value))) {
    return result;
  }
  if (const CUresult result = check_function(function)) return result;
  const int limit = fake->devices.at(function->module->context->device).max_shared;
  if (attribute != kMaxDynamicSharedSize || value < 0 || value > limit) return kInvalidValue;
  function->max_dynamic_shared = value;
  return kSuccess;
}

FAKE CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                             unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void** parameters,
                             void** extra) {
  Call call("cuLaunchKernel");
  if (const CUresult result = call.begin(text(function) + " grid=" + text(grid_x, grid_y, grid_z) +
                                         " block=" + text(block_x, block_y, block_z) +
                                         " shared=" + std::to_string(shared) + " stream=" + text(stream))) {
    return result;
  }
  if (const CUresult result = check_function(function)) return result;
  if (const CUresult result = check_stream(stream)) return result;
  const bool grid =
      grid_x > 0 && grid_y > 0 && grid_z > 0 && grid_x <= 0x7fffffff && grid_y <= 65535 && grid_z <= 65535;
  const bool block = block_x > 0 && block_x <= 1024 && block_y == 1 && block_z == 1;
  const bool fits = shared <= static_cast<unsigned>(function->max_dynamic_shared);
  if (!grid || !block || !fits || parameters == nullptr || extra != nullptr) return kInvalidValue;
  const LaunchCallback launch = fake->launch;
  const unsigned sizes[3] = {grid_x, grid_y, grid_z};
  call.unlock();
  if (launch == nullptr) return kSuccess;
  return launch(function->module->image.c_str(), function->symbol.c_str(), sizes, block_x, shared, parameters, stream);
}
