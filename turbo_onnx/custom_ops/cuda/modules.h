// The code that this process has loaded, shared by all sessions.
#pragma once

#include "custom_ops/cuda/archive.h"
#include "custom_ops/cuda/driver.h"

namespace turbo_onnx::cuda {

// Loads the code into the context, which must be current, unless it is there already; threads that ask for the same
// code at once load it once. Returns kSuccess, or the driver's result where it cannot use this image on this device, so
// that another may be tried. Throws a sentence on every other failure. No failure is remembered.
//
// What is loaded stays until the process ends: sessions come and go, and ONNX Runtime's contexts live as long.
CUresult load(CUcontext context, const Code& code, CUfunction* function);

}  // namespace turbo_onnx::cuda
