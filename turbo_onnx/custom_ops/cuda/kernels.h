// The compiled kernels that a node carries, as its operator sees them: find one by its key, and launch it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "custom_ops/cuda/driver.h"
#include "custom_ops/ort/abi.h"

namespace turbo_onnx::cuda {

// The text by which a kernel is found, as `variant.key` in Python writes it: `name;type;...;value=number;...`.
class Key {
 public:
  explicit Key(const char* name) {
    text_.reserve(kUsualLength);
    text_ += name;
  }

  // Appends an element type by its NumPy name: float32, float16, bfloat16, float64, int64, int32, bool.
  Key& type(abi::ElementType type);
  // Appends a size or a flag that the kernel is specialised for.
  Key& value(const char* name, int64_t number);

  const std::string& text() const { return text_; }

 private:
  static constexpr size_t kUsualLength = 128;  // room for it is taken once
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
  void launch(CUstream stream, const Key& key, const MakeGrid& grid, const Arguments&... arguments) const {
    const std::array<Argument, sizeof...(Arguments)> list{Argument(arguments)...};
    void* parameters[sizeof...(Arguments) + kScratchPointers];
    const GridMaker maker{&grid,
                          [](const void* make, Tile tile) { return (*static_cast<const MakeGrid*>(make))(tile); }};
    launch(stream, key.text(), maker, list.data(), list.size(), parameters);
  }

  // Copies one int32 from the device to the host. This waits for the stream, and is the only thing here that does.
  int32_t read(CUstream stream, const int32_t* device) const;

 private:
  struct State;

  // A function from Tile to Grid that is only called while it exists.
  struct GridMaker {
    const void* make;
    Grid (*call)(const void* make, Tile);
  };
  static constexpr size_t kScratchPointers = 2;  // Triton's last two parameters; its kernels here do not use them

  // `parameters` is room for the addresses of `count` arguments and of the scratch pointers.
  void launch(CUstream stream, const std::string& key, GridMaker grid, const Argument* arguments, size_t count,
              void** parameters) const;

  std::unique_ptr<State> state_;
};

}  // namespace turbo_onnx::cuda
