#include "custom_ops/arena/stacking.h"

#include <algorithm>

#include "custom_ops/ort/status.h"

namespace turbo_onnx::arena {
namespace {

constexpr size_t kMostPairs = 1 << 21;
constexpr size_t kMostReduced = 4096;  // buffers; the sets below take an eighth of a byte for each pair of them

// Sets of positions, one for each position.
class Sets {
 public:
  explicit Sets(size_t count) : words_((count + 63) / 64), bits_(count * words_) {}
  bool has(size_t set, size_t position) const { return bits_[set * words_ + position / 64] >> position % 64 & 1; }
  void add(size_t set, size_t position) { bits_[set * words_ + position / 64] |= uint64_t{1} << position % 64; }
  void unite(size_t set, size_t other) {
    for (size_t i = 0; i < words_; ++i) bits_[set * words_ + i] |= bits_[other * words_ + i];
  }

 private:
  size_t words_;
  std::vector<uint64_t> bits_;
};

}  // namespace

Conflicts conflicts_of(const Variant& variant) {
  Conflicts conflicts{0, std::vector<std::vector<int32_t>>(variant.buffers.size())};
  std::vector<int32_t> alive;
  int32_t next = 0;
  size_t pairs = 0;
  for (const int32_t event : variant.events) {
    if (event != kAllocate) {
      alive.erase(std::find(alive.begin(), alive.end(), event - 1));
      continue;
    }
    const int32_t buffer = next++;
    if (!variant.buffers[static_cast<size_t>(buffer)].planned) continue;
    pairs += alive.size();
    if (pairs > kMostPairs) throw InvalidArgument("the memory plan has too many buffers that are alive at once");
    conflicts.with[static_cast<size_t>(buffer)] = alive;
    for (const int32_t other : alive) conflicts.with[static_cast<size_t>(other)].push_back(buffer);
    alive.push_back(buffer);
    ++conflicts.planned;
  }
  return conflicts;
}

// A buffer that lies below another one which is below this one need not be looked at: it can be no higher. Leaving
// those out makes the offsets of a run several times quicker.
Order make_order(const Conflicts& conflicts, std::vector<int32_t> buffers) {
  const size_t count = buffers.size();
  std::vector<size_t> position(conflicts.with.size());
  for (size_t i = 0; i < count; ++i) position[static_cast<size_t>(buffers[i])] = i;
  const bool reduce = count <= kMostReduced;
  Sets under(reduce ? count : 0);
  Order order;
  order.first_below.push_back(0);
  std::vector<size_t> candidates;
  for (size_t i = 0; i < count; ++i) {
    candidates.clear();
    for (const int32_t other : conflicts.with[static_cast<size_t>(buffers[i])]) {
      const size_t at = position[static_cast<size_t>(other)];
      if (at < i) candidates.push_back(at);
    }
    std::sort(candidates.rbegin(), candidates.rend());
    for (const size_t at : candidates) {
      if (reduce) {
        if (under.has(i, at)) continue;
        under.add(i, at);
        under.unite(i, at);
      }
      order.below.push_back(static_cast<uint32_t>(at));
    }
    order.first_below.push_back(static_cast<uint32_t>(order.below.size()));
  }
  order.buffers = std::move(buffers);
  return order;
}

}  // namespace turbo_onnx::arena
