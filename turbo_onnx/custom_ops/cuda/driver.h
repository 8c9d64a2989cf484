// The part of the CUDA driver's interface that this library uses, declared by ourselves and opened at run time: nothing
// of CUDA is needed to build or to load the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace turbo_onnx::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = uint64_t;
struct CUctx_st;
struct CUmod_st;
struct CUfunc_st;
using CUcontext = CUctx_st*;
using CUmodule = CUmod_st*;
using CUfunction = CUfunc_st*;
using CUstream = void*;  // as ONNX Runtime hands it over

enum : CUresult {
  kSuccess = 0,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kInvalidPtx = 218,
  kJitCompilerNotFound = 221,
  kUnsupportedPtxVersion = 222,
};

enum Attribute : int {
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxSharedMemoryOptin = 97,
};
enum FunctionAttribute : int { kMaxDynamicSharedSize = 8 };

// The driver's functions, found once. Each member has the name of the function without its version suffix.
struct Driver {
  CUresult (*cuInit)(unsigned flags);
  CUresult (*cuDriverGetVersion)(int* version);
  CUresult (*cuGetErrorName)(CUresult, const char** name);
  CUresult (*cuGetErrorString)(CUresult, const char** text);
  CUresult (*cuCtxGetCurrent)(CUcontext*);
  CUresult (*cuCtxPushCurrent)(CUcontext);
  CUresult (*cuCtxPopCurrent)(CUcontext*);
  CUresult (*cuCtxGetDevice)(CUdevice*);
  CUresult (*cuDeviceGetAttribute)(int* value, Attribute, CUdevice);
  CUresult (*cuStreamGetCtx)(CUstream, CUcontext*);
  CUresult (*cuStreamSynchronize)(CUstream);
  CUresult (*cuMemcpyDtoHAsync)(void* host, CUdeviceptr device, size_t bytes, CUstream);
  CUresult (*cuModuleLoadData)(CUmodule*, const void* image);
  CUresult (*cuModuleUnload)(CUmodule);
  CUresult (*cuModuleGetFunction)(CUfunction*, CUmodule, const char* name);
  CUresult (*cuFuncSetAttribute)(CUfunction, FunctionAttribute, int value);
  CUresult (*cuLaunchKernel)(CUfunction, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                             unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream, void** parameters,
                             void** extra);
};

// Opens libcuda.so.1, or the file that TURBO_ONNX_CUDA_DRIVER names, the first time. Throws a sentence if it is not
// there, lacks a function or finds no device; the next call tries again.
const Driver& driver();

// A result in the driver's words: "NAME (text)".
std::string message(CUresult result);

[[noreturn]] void fail(CUresult result, std::string_view what);

// Throws "WHAT failed: NAME (text)" unless the result is kSuccess.
inline void check(CUresult result, std::string_view what) {
  if (result != kSuccess) fail(result, what);
}

}  // namespace turbo_onnx::cuda
