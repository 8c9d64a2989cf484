// A CUDA driver that does nothing, at once and without a lock: for timing the launcher, for watching its own locks,
// and, with -DcuFunction=absent, for a driver that lacks a function.
#include <cstdint>

#define DRIVER extern "C" __attribute__((visibility("default")))

namespace {

char context;
char loaded;

}  // namespace

DRIVER int cuInit(unsigned) { return 0; }
DRIVER int cuDriverGetVersion(int* version) { return *version = 12080, 0; }
DRIVER int cuGetErrorName(int, const char** name) { return *name = "", 0; }
DRIVER int cuGetErrorString(int, const char** text) { return *text = "", 0; }
DRIVER int cuCtxGetCurrent(void** current) { return *current = &context, 0; }
DRIVER int cuCtxPushCurrent_v2(void*) { return 0; }
DRIVER int cuCtxPopCurrent_v2(void** popped) { return *popped = &context, 0; }
DRIVER int cuCtxGetDevice(int* device) { return *device = 0, 0; }
DRIVER int cuDeviceGetAttribute(int* value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, 0; }
DRIVER int cuStreamGetCtx(void*, void** current) { return *current = &context, 0; }
DRIVER int cuStreamSynchronize(void*) { return 0; }
DRIVER int cuMemcpyDtoHAsync_v2(void*, uint64_t, uint64_t, void*) { return 0; }
DRIVER int cuModuleLoadData(void** module, const void*) { return *module = &loaded, 0; }
DRIVER int cuModuleUnload(void*) { return 0; }
DRIVER int cuModuleGetFunction(void** function, void*, const char*) { return *function = &loaded, 0; }
DRIVER int cuFuncSetAttribute(void*, int, int) { return 0; }
DRIVER int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                          void**) {
  return 0;
}
