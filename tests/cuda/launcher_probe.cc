// The launcher as C functions, so that tests can call it without ONNX Runtime; and as a program that sanitizers can
// watch.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/cuda/archive.h"
#include "custom_ops/cuda/driver.h"
#include "custom_ops/cuda/kernels.h"
#include "custom_ops/cuda/sha256.h"
#include "custom_ops/ort/status.h"

#define PROBE extern "C" __attribute__((visibility("default")))

using namespace turbo_onnx;
using namespace turbo_onnx::cuda;

namespace {

thread_local std::string sentence;

enum Outcome : int { kDone = 0, kInvalid = 1, kFailed = 2 };

template <class Body>
int outcome(Body&& body) {
  try {
    body();
    return kDone;
  } catch (const InvalidArgument& error) {
    sentence = error.what();
    return kInvalid;
  } catch (const std::runtime_error& error) {
    sentence = error.what();
    return kFailed;
  }
}

Argument argument(char type, uint64_t value) {
  if (type == 'i') return static_cast<int32_t>(value);
  if (type == 'l') return static_cast<int64_t>(value);
  if (type == 'p') return reinterpret_cast<const void*>(value);
  float real;
  std::memcpy(&real, &value, sizeof real);
  return real;
}

// Launches with up to four arguments; a larger number is cut off.
void launch(const Kernels& kernels, CUstream stream, const Key& key, Grid work, const std::string& types,
            const uint64_t* values) {
  std::vector<Argument> a;
  for (size_t i = 0; i < types.size(); ++i) a.push_back(argument(types[i], values[i]));
  const auto grid = [&](Tile tile) {
    return Grid{tiles(work.x, tile.x), tiles(work.y, tile.y), tiles(work.z, tile.z)};
  };
  switch (a.size()) {
    case 0:
      return kernels.launch(stream, key, grid);
    case 1:
      return kernels.launch(stream, key, grid, a[0]);
    case 2:
      return kernels.launch(stream, key, grid, a[0], a[1]);
    case 3:
      return kernels.launch(stream, key, grid, a[0], a[1], a[2]);
    default:
      return kernels.launch(stream, key, grid, a[0], a[1], a[2], a[3]);
  }
}

}  // namespace

// What the last call on this thread that did not return kDone, or returned null, threw.
PROBE const char* probe_error() { return sentence.c_str(); }

PROBE int probe_driver() {
  return outcome([] { driver(); });
}

PROBE Kernels* probe_open(const void* data, size_t bytes) {
  Kernels* kernels = nullptr;
  outcome([&] { kernels = new Kernels(Kernels(data, bytes)); });
  return kernels;
}

PROBE void probe_close(Kernels* kernels) { delete kernels; }

// The grid covers `work` with tiles.
PROBE int probe_launch(const Kernels* kernels, CUstream stream, const char* key, const uint64_t work[3],
                       const char* types, const uint64_t* values) {
  return outcome([&] { launch(*kernels, stream, Key(key), {work[0], work[1], work[2]}, types, values); });
}

PROBE int probe_read(const Kernels* kernels, CUstream stream, const int32_t* device, int32_t* value) {
  return outcome([&] { *value = kernels->read(stream, device); });
}

// From each of `threads` threads, launches kernel `i` of `kernels` for every i, in an order of its own, and returns how
// many launches failed. All kernels have one key and one pointer.
PROBE int probe_launch_at_once(Kernels* const* kernels, size_t count, size_t threads, CUstream stream,
                               const char* key) {
  std::vector<int> failures(threads);
  std::vector<std::thread> running;
  for (size_t t = 0; t < threads; ++t) {
    running.emplace_back([=, &failures] {
      for (size_t i = 0; i < count; ++i) {
        const uint64_t work[3] = {1, 1, 1}, pointer = 0;
        failures[t] += probe_launch(kernels[(i + t) % count], stream, key, work, "p", &pointer) != kDone;
      }
    });
  }
  int failed = 0;
  for (std::thread& thread : running) thread.join();
  for (const int failure : failures) failed += failure;
  return failed;
}

// Nanoseconds of one launch, with the making of its key as an operator makes it.
PROBE double probe_launch_cost(const Kernels* kernels, CUstream stream, size_t launches) {
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < launches; ++i) {
    const Key key = Key("skip_layer_normalization").type(abi::kFloat16).value("width", 768).value("bias", 1);
    const size_t rows = i % 64 + 1;
    kernels->launch(
        stream, key, [&](Tile tile) { return Grid{tiles(rows, tile.x)}; }, &rows, &rows, static_cast<int64_t>(rows));
  }
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / launches;
}

// Nanoseconds of reading an archive.
PROBE double probe_open_cost(const void* data, size_t bytes, size_t times) {
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < times; ++i) Kernels(data, bytes);
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / times;
}

PROBE const char* probe_key(int type, int64_t number) {
  static thread_local std::string text;
  const int code = outcome([&] {
    text = Key("name").type(static_cast<abi::ElementType>(type)).value("width", number).value("bias", true).text();
  });
  return code == kDone ? text.c_str() : nullptr;
}

// One line for each kernel: all that is known of it but its digest and its code.
PROBE const char* probe_list(const void* data, size_t bytes) {
  static thread_local std::string text;
  const int code = outcome([&] {
    text.clear();
    for (const Code& entry : read_archive(data, bytes)) {
      text += std::string(entry.key) + " " + std::to_string(entry.capability) + " " +
              std::to_string(static_cast<int>(entry.rule)) + " " + std::to_string(entry.aligned) + " " +
              std::string(entry.symbol) + " " + std::string(entry.arguments) + " " + std::to_string(entry.warps) + " " +
              std::to_string(entry.shared) + " " + std::to_string(entry.tile.x) + " " + std::to_string(entry.tile.y) +
              " " + std::to_string(entry.tile.z) + " " + std::to_string(entry.bytes) + "\n";
    }
  });
  return code == kDone ? text.c_str() : nullptr;
}

PROBE void probe_sha256(const void* data, size_t bytes, uint8_t* digest) {
  const Digest value = sha256(data, bytes);
  std::memcpy(digest, value.data(), value.size());
}

namespace {

// Opens the archive and launches all that is in it; one line says how many kernels there were, or what was wrong.
void try_archive(const std::vector<uint8_t>& bytes) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);  // so that a read beyond it is seen
  std::copy(bytes.begin(), bytes.end(), exact.get());
  const uint64_t work[3] = {1, 1, 1}, values[4] = {};
  std::string line;
  const int opened = outcome([&] {
    const Kernels kernels(exact.get(), bytes.size());
    const std::vector<Code> codes = read_archive(exact.get(), bytes.size());
    for (const Code& code : codes) {
      const std::string key(code.key), types(code.arguments.substr(0, 4));
      probe_launch(&kernels, nullptr, key.c_str(), work, types.c_str(), values);
    }
    line = std::to_string(codes.size());
  });
  if (opened != kDone) line = sentence;
  for (char& letter : line) letter = letter < ' ' ? '?' : letter;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

template <class Number>
bool read_number(Number& number) {
  return std::fread(&number, sizeof number, 1, stdin) == 1;
}

}  // namespace

// Reads archives from the standard input, each after the number of its bytes. With the argument "threads", one archive,
// whose kernels it launches from many threads.
int main(int count, char** arguments) {
  uint64_t size = 0;
  while (read_number(size)) {
    std::vector<uint8_t> bytes(size);
    if (std::fread(bytes.data(), 1, size, stdin) != size) return 1;
    if (count == 1) {
      try_archive(bytes);
      continue;
    }
    std::vector<Kernels*> kernels;
    for (int i = 0; i < 64; ++i) kernels.push_back(probe_open(bytes.data(), bytes.size()));
    const int failed = probe_launch_at_once(kernels.data(), kernels.size(), 16, nullptr, arguments[2]);
    for (Kernels* each : kernels) probe_close(each);
    std::printf("%d\n", failed);
  }
  return 0;
}
