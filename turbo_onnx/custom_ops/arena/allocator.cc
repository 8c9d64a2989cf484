#include "custom_ops/arena/allocator.h"

#include <map>
#include <mutex>
#include <new>
#include <string>

#include "custom_ops/arena/forks.h"
#include "custom_ops/arena/heap.h"
#include "custom_ops/arena/run.h"
#include "custom_ops/ort/status.h"

namespace turbo_onnx::arena {
namespace {

constexpr const char* kPolicyEntry = "turbo_onnx.arena";
constexpr const char* kUseAllocators = "session.use_env_allocators";

// One for each copy of ONNX Runtime in this process, which lives as long as the process.
struct Allocator : abi::OrtAllocator {
  explicit Allocator(const abi::OrtMemoryInfo* memory) : abi::OrtAllocator{}, memory_(memory) {
    version = abi::kApiVersion;
    Alloc = [](abi::OrtAllocator*, size_t bytes) { return checked(allocate(bytes), bytes); };
    Free = [](abi::OrtAllocator*, void* memory) { deallocate(memory); };
    Info = [](const abi::OrtAllocator* self) { return static_cast<const Allocator*>(self)->memory_; };
    Reserve = [](abi::OrtAllocator*, size_t bytes) { return checked(heap().reserve(bytes), bytes); };
  }

 private:
  // ONNX Runtime would use a null pointer. An exception arrives as the failed run or session that it is.
  static void* checked(void* memory, size_t bytes) {
    if (memory == nullptr && bytes != 0) throw std::bad_alloc();
    return memory;
  }

  const abi::OrtMemoryInfo* memory_;
};

std::string entry(const abi::OrtApi* api, const abi::OrtSessionOptions* options, const char* key) {
  int present = 0;
  check(api, abi::HasSessionConfigEntry(api, options, key, &present));
  if (!present) return "";
  size_t size = 0;
  check(api, abi::GetSessionConfigEntry(api, options, key, nullptr, &size));
  std::string value(size, '\0');
  check(api, abi::GetSessionConfigEntry(api, options, key, value.data(), &size));
  value.resize(size - 1);
  return value;
}

bool succeeded(const abi::OrtApi* api, abi::OrtStatus* status) {
  if (status == nullptr) return true;
  abi::ReleaseStatus(api, status);
  return false;
}

// Registers with the environment of the process; where there is none, with one that goes away again. Doing it again
// replaces the allocator by itself, and is needed where the environment is another one than before; releases that take
// each allocator only once then refuse it, and have it. Wants the registration lock.
bool register_allocator(const abi::OrtApi* api) {
  static auto& allocators = *new std::map<const abi::OrtApi*, Allocator*>;
  constexpr int kWarning = 2, kDeviceAllocator = 0, kDefaultMemory = 0;
  abi::OrtEnv* environment = nullptr;
  if (!succeeded(api, abi::CreateEnv(api, kWarning, "turbo_onnx", &environment))) return false;
  Allocator*& allocator = allocators[api];
  const bool first = allocator == nullptr;
  bool registered = true;
  if (first) {
    abi::OrtMemoryInfo* memory = nullptr;
    registered = succeeded(api, abi::CreateCpuMemoryInfo(api, kDeviceAllocator, kDefaultMemory, &memory));
    if (registered) allocator = new Allocator(memory);
  }
  if (registered) registered = succeeded(api, abi::RegisterAllocator(api, environment, allocator)) || !first;
  abi::ReleaseEnv(api, environment);
  return registered;
}

}  // namespace

Policy install(const abi::OrtApi* api, abi::OrtSessionOptions* options) {
  const std::string text = entry(api, options, kPolicyEntry);
  const Policy policy = text.empty() ? Policy{} : parse_policy(text);
  const Policy off{Policy::kOff, 0};
  int chosen = 0;
  check(api, abi::HasSessionConfigEntry(api, options, kUseAllocators, &chosen));
  if (policy.kind == Policy::kOff || chosen || !register_allocator(api)) return off;
  check(api, abi::AddSessionConfigEntry(api, options, kUseAllocators, "1"));
  check(api, abi::DisableMemPattern(api, options));
  return policy;
}

void provide(const abi::OrtApi* api) noexcept {
  try {
    const std::lock_guard<std::mutex> lock(registration_lock());
    register_allocator(api);
  } catch (const std::bad_alloc&) {  // the environment may have it already; else its own arena serves
  }
}

}  // namespace turbo_onnx::arena
