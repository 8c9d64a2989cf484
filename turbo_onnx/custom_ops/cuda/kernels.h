// The compiled kernels that a node carries, as its operator sees them: find one by its key, and launch it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>

#include "custom_ops/cuda/driver.h"
#include "custom_ops/ort/abi.h"

namespace turbo_onnx::cuda {

class Archive;

// The text by which a kernel is found, as `variant.key` in Python writes it: `name;type;...;value=number;...`.
class Key {
 public:
  explicit Key(const char* name) : text_(name) {}

  // Appends an element type by its NumPy name: float32, float16, bfloat16, float64, int64, int32, bool.
  Key& type(abi::ElementType type);
  Key& value(const char* name, int64_t number) {
    text_ += std::string(";") + name + "=" + std::to_string(number);
    return *this;
  }

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// What one program of a kernel covers, as the variant's `tile` says.
struct Tile {
  uint32_t x, y, z;
};

// How many programs there are. An empty grid launches nothing; one beyond the device's limits is an error.
struct Grid {
  uint64_t x = 1, y = 1, z = 1;
};

inline uint64_t tiles(uint64_t work, uint64_t tile) { return (work + tile - 1) / tile; }

// One run-time argument of a kernel: a pointer ('p'), an int32_t ('i'), an int64_t ('l') or a float ('f').
struct Argument {
  char type;
  union {
    const void* pointer;
    int32_t integer;
    int64_t wide;
    float real;
  };
  template <class T>
  Argument(T* value) : type('p'), pointer(value) {}
  Argument(std::nullptr_t) : type('p'), pointer(nullptr) {}
  Argument(int32_t value) : type('i'), integer(value) {}
  Argument(int64_t value) : type('l'), wide(value) {}
  Argument(float value) : type('f'), real(value) {}
};

// All kernels of one node's archive. Safe to use from many threads, and on many devices.
class Kernels {
 public:
  // Reads the index of the archive, whose bytes must outlive this. Throws a sentence if they are not an archive.
  Kernels(const void* data, size_t bytes);
  ~Kernels();
  Kernels(Kernels&&) noexcept;

  // Launches the kernel with this key on the stream. The variant for aligned pointers is taken where all pointers are
  // multiples of 16. Throws, with the kernel's key in the sentence, if there is no such kernel, none for this device,
  // if the arguments are not those that it was compiled for, or if the driver refuses.
  //
  //   kernels.launch(stream, Key("bias_gelu").type(x.type).value("width", w),
  //                  [&](Tile tile) { return Grid{tiles(rows, tile.x), tiles(w, tile.y)}; }, x.data, output);
  template <class MakeGrid, class... Arguments>
  void launch(CUstream stream, const Key& key, MakeGrid&& grid, const Arguments&... arguments) const {
    const std::array<Argument, sizeof...(Arguments)> list{Argument(arguments)...};
    launch(stream, key.text(), std::function<Grid(Tile)>(grid), list.data(), list.size());
  }

  // Copies one int32 from the device to the host. This waits for the stream, and is the only thing here that does.
  int32_t read(CUstream stream, const int32_t* device) const;

 private:
  void launch(CUstream stream, const std::string& key, const std::function<Grid(Tile)>& grid, const Argument* arguments,
              size_t count) const;

  std::unique_ptr<Archive> archive_;
};

}  // namespace turbo_onnx::cuda
