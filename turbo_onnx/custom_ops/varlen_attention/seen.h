// Which keys a query sees: those in a range, since positions ascend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "custom_ops/cpu/sizes.h"
#include "custom_ops/varlen_attention/cpu.h"

namespace turbo_onnx {
namespace TURBO_ISA {

// Keys of a sequence, from `first` to before `last`.
struct Keys {
  size_t first, last;

  size_t count() const { return last - first; }

  // Those among other keys, counted from the first of these.
  Keys within(Keys others) const {
    const size_t end = last > others.first ? smaller(last, others.last) - others.first : 0;
    return {first > others.first ? smaller(first - others.first, end) : 0, end};
  }
};

// A block of queries of one sequence, for any head.
struct Unit {
  size_t sequence;
  size_t query_row, queries;  // the sequence's first row, and how many
  size_t key_row, keys;
  size_t first, last;  // queries of the sequence in this block
  Keys seen;           // by any of them
  size_t width;        // how many keys one of them sees, about
  double cost;         // of one head
};

// As far as a query would see if rows stood side by side. It never sees more, for positions are at least as far apart.
inline Keys keys_within(const Window& window, size_t query, size_t queries, size_t keys) {
  const size_t from_end = queries - query;  // query i stands at i + keys - queries, before the first key if that is < 0
  if (from_end > keys) {
    const size_t missing = from_end - keys;
    return {0, window.after < missing ? 0 : smaller(window.after - missing + 1, keys)};
  }
  const size_t at = keys - from_end;
  return {at - smaller(window.before, at), at + smaller(window.after, from_end - 1) + 1};
}

// The keys that a query of the sequence sees; both ends ascend with the query. {0, 0} if there are none.
inline Keys seen_keys(const VarlenAttentionArguments& args, const Unit& unit, size_t query) {
  Keys seen = keys_within(args.window, query, unit.queries, unit.keys);
  if (args.positions == nullptr || seen.count() == 0) return seen;
  // How far apart positions are is never negative here, so that it fits whatever the positions are.
  const int64_t* at = args.positions + unit.key_row;
  const auto apart = [at](size_t low, size_t high) {
    return static_cast<uint64_t>(at[high]) - static_cast<uint64_t>(at[low]);
  };
  if (args.window.before != Window::kUnbounded && apart(seen.first, query) > args.window.before) {
    size_t hidden = seen.first, shown = query;
    while (shown - hidden > 1) {
      const size_t middle = hidden + (shown - hidden) / 2;
      (apart(middle, query) > args.window.before ? hidden : shown) = middle;
    }
    seen.first = shown;
  }
  if (args.window.after != Window::kUnbounded && apart(query, seen.last - 1) > args.window.after) {
    size_t shown = query, hidden = seen.last - 1;
    while (hidden - shown > 1) {
      const size_t middle = shown + (hidden - shown) / 2;
      (apart(query, middle) > args.window.after ? hidden : shown) = middle;
    }
    seen.last = hidden;
  }
  return seen;
}

// The rows of the output for one head that see no key at all: nothing to sum, or a softmax over nothing but -inf.
inline void fill_unseen(const VarlenAttentionArguments& args, const Unit& unit, size_t head) {
  const float value = unit.keys == 0 || args.guard ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  const size_t width = args.value_head_size;
  for (size_t q = unit.first; q < unit.last; ++q) {
    float* row = args.output + (unit.query_row + q) * args.heads * width + head * width;
    for (size_t i = 0; i < width; ++i) row[i] = value;
  }
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
