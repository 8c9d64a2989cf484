// How attention is cut into pieces for threads: by the shapes alone, so that results do not depend on how many there
// are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "custom_ops/cpu/sizes.h"
#include "custom_ops/varlen_attention/cpu.h"
#include "custom_ops/varlen_attention/seen.h"

namespace turbo_onnx {
namespace TURBO_ISA {

constexpr size_t kUnitRows = 192;    // queries in one unit: K and V are packed again for each
constexpr double kTaskCost = 5e5;    // multiplications that are worth handing to a thread
constexpr size_t kEnoughTasks = 32;  // so many keep threads busy, and need not be cut through heads that share keys

// Some heads of some units, for one thread.
struct Task {
  size_t first_unit, last_unit, first_head, last_head;
};

// Cuts every sequence into blocks of queries, the costly ones first.
inline std::vector<Unit> cut_into_units(const VarlenAttentionArguments& args) {
  std::vector<Unit> units;
  for (size_t b = 0; b < args.batch; ++b) {
    Unit unit{};
    unit.sequence = b;
    if (args.cu_seqlens) {
      unit.query_row = unit.key_row = static_cast<size_t>(args.cu_seqlens[b]);
      unit.queries = unit.keys = static_cast<size_t>(args.cu_seqlens[b + 1] - args.cu_seqlens[b]);
    } else {
      unit.queries = args.query_length;
      unit.keys = args.key_length;
      unit.query_row = b * unit.queries;
      unit.key_row = b * unit.keys;
    }
    if (unit.queries == 0) continue;
    const size_t blocks = (unit.queries + kUnitRows - 1) / kUnitRows;
    const size_t height = round_up((unit.queries + blocks - 1) / blocks, 12);
    for (size_t first = 0; first < unit.queries; first += height) {
      unit.first = first;
      unit.last = smaller(first + height, unit.queries);
      unit.seen = {seen_keys(args, unit, first).first, seen_keys(args, unit, unit.last - 1).last};
      const Keys of_one = seen_keys(args, unit, first + (unit.last - first) / 2);
      unit.width = args.window.before == Window::kUnbounded ? unit.seen.count() : of_one.count();
      // To pack the keys once costs about what 8 queries do.
      unit.cost = (static_cast<double>(unit.last - first) * static_cast<double>(unit.width) +
                   8.0 * static_cast<double>(unit.seen.count())) *
                  static_cast<double>(args.head_size + args.value_head_size);
      units.push_back(unit);
    }
  }
  std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
  return units;
}

// Cuts costly units into tasks of a few heads, and groups cheap ones, so that each task is worth a thread's while.
// Heads that share keys stay together where there are other ways to make enough tasks.
inline std::vector<Task> group_into_tasks(const std::vector<Unit>& units, size_t heads, size_t key_heads) {
  std::vector<Task> tasks;
  size_t together = heads / key_heads;
  while (together > 1 && (units.size() * heads / together < kEnoughTasks || heads / key_heads % together != 0))
    --together;
  const size_t bundles = heads / together;
  for (size_t u = 0; u < units.size();) {
    const double cost = units[u].cost * static_cast<double>(heads);
    if (cost >= kTaskCost) {
      const size_t parts = smaller(static_cast<size_t>(cost / kTaskCost), bundles);
      for (size_t p = 0; p < parts; ++p)
        tasks.push_back({u, u + 1, p * bundles / parts * together, (p + 1) * bundles / parts * together});
      ++u;
    } else {
      const size_t first = u;
      for (double total = 0; u < units.size() && total < kTaskCost; ++u)
        total += units[u].cost * static_cast<double>(heads);
      tasks.push_back({first, u, 0, heads});
    }
  }
  return tasks;
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
