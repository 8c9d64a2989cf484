#include "custom_ops/cuda/archive.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "custom_ops/ort/tensor.h"

namespace turbo_onnx::cuda {
namespace {

constexpr std::string_view kMagic("TURBOCU\0", 8);
constexpr uint32_t kVersion = 1;
constexpr size_t kSmallestEntry = 78;  // one whose texts are empty
constexpr uint32_t kMaxWarps = 32;     // a block has at most 1024 threads

template <class... Parts>
void require_intact(bool condition, const Parts&... parts) {
  require(condition, "the compiled kernels in the model are damaged: ", parts...);
}

// Little-endian numbers and texts, one after the other.
class Reader {
 public:
  Reader(const uint8_t* data, size_t bytes) : data_(data), bytes_(bytes) {}

  const uint8_t* take(size_t count) {
    require_intact(count <= bytes_ - position_, "they end after ", bytes_, " bytes");
    position_ += count;
    return data_ + position_ - count;
  }

  template <class Number>
  Number number() {
    const uint8_t* bytes = take(sizeof(Number));
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(Number); ++i) value |= uint64_t{bytes[i]} << (8 * i);
    return static_cast<Number>(value);
  }

  std::string_view text() {
    const size_t length = number<uint16_t>();
    return {reinterpret_cast<const char*>(take(length)), length};
  }

 private:
  const uint8_t* data_;
  size_t bytes_;
  size_t position_ = 0;
};

Code read_code(Reader& reader, const uint8_t* data, size_t bytes) {
  Code code{};
  code.key = reader.text();
  code.symbol = reader.text();
  code.arguments = reader.text();
  const int rule = reader.number<uint8_t>();
  const int aligned = reader.number<uint8_t>();
  code.capability = reader.number<uint16_t>();
  code.warps = reader.number<uint32_t>();
  code.shared = reader.number<uint32_t>();
  code.tile.x = reader.number<uint32_t>();
  code.tile.y = reader.number<uint32_t>();
  code.tile.z = reader.number<uint32_t>();
  std::memcpy(code.digest.data(), reader.take(code.digest.size()), code.digest.size());
  const uint64_t offset = reader.number<uint64_t>();
  const uint64_t length = reader.number<uint64_t>();

  const std::string key(code.key);
  require_intact(!code.symbol.empty() && code.symbol.find('\0') == std::string_view::npos, key, " has no symbol");
  require_intact(code.arguments.find_first_not_of("pilf") == std::string_view::npos, key,
                 " has an argument of an unknown type");
  require_intact(rule <= static_cast<int>(Rule::kLater) && aligned <= 1, key, " has an unknown rule");
  require_intact(0 < code.warps && code.warps <= kMaxWarps, key, " has ", code.warps, " warps");
  require_intact(code.tile.x > 0 && code.tile.y > 0 && code.tile.z > 0, key, " has an empty tile");
  require_intact(0 < length && length <= bytes && offset <= bytes - length, key, " has its code beyond the end");
  code.rule = static_cast<Rule>(rule);
  code.aligned = aligned == 1;
  code.image = data + offset;
  code.bytes = length;
  return code;
}

}  // namespace

bool Code::runs_on(int device_capability) const {
  switch (rule) {
    case Rule::kExact:
      return device_capability == capability;
    case Rule::kSameMajor:
      return device_capability / 10 == capability / 10 && device_capability >= capability;
    case Rule::kLater:
      return device_capability >= capability;
  }
  return false;
}

std::vector<Code> read_archive(const void* data, size_t bytes) {
  const auto* start = static_cast<const uint8_t*>(data);
  Reader reader(start, bytes);
  require_intact(std::memcmp(reader.take(kMagic.size()), kMagic.data(), kMagic.size()) == 0,
                 "they do not start as they should");
  const auto version = reader.number<uint32_t>();
  require(version == kVersion, "the compiled kernels in the model are of version ", version,
          ", but this library reads version ", kVersion, ": optimize the model again");
  const auto count = reader.number<uint32_t>();
  const auto size = reader.number<uint64_t>();
  require_intact(size == bytes, "they have ", bytes, " bytes instead of ", size);
  require_intact(count <= bytes / kSmallestEntry, "they have no room for ", count, " kernels");

  std::vector<Code> codes;
  codes.reserve(count);
  for (uint32_t i = 0; i < count; ++i) codes.push_back(read_code(reader, start, bytes));
  const auto order = [](const Code& code) {
    return std::make_tuple(code.key, code.rule, -code.capability, !code.aligned);
  };
  std::stable_sort(codes.begin(), codes.end(), [&](const Code& a, const Code& b) { return order(a) < order(b); });
  return codes;
}

}  // namespace turbo_onnx::cuda
