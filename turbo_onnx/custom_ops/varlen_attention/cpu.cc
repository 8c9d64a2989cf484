// Attention over sequences of any length, in float32.
//
// The unit of work is one head of a block of at most 192 queries of one sequence, or a few heads that share their keys.
// The keys that the block sees are taken in chunks that fit the second-level cache: K^T is packed into panels as wide
// as a tile, V into contiguous rows, both with their bias added. Then, a few rows of queries at a time, so that their
// scores stay in the first-level cache: scores, softmax, weighted sum, of those panels that the rows see. Where all
// keys fit one chunk, rows are finished at once; where they do not, each row carries its largest score, its sum and its
// output from chunk to chunk (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).

#include "custom_ops/varlen_attention/cpu.h"

#include <vector>

#include "custom_ops/cpu/scratch.h"
#include "custom_ops/cpu/sizes.h"
#include "custom_ops/cpu/vector.h"
#include "custom_ops/varlen_attention/few_queries.h"
#include "custom_ops/varlen_attention/packing.h"
#include "custom_ops/varlen_attention/softmax.h"
#include "custom_ops/varlen_attention/tasks.h"
#include "custom_ops/varlen_attention/tiles.h"

namespace turbo_onnx {
namespace TURBO_ISA {
namespace {

constexpr size_t kBlockRows = 48;       // most queries whose scores are held at a time
constexpr size_t kBlockScores = 4096;   // floats of scores that are held at a time, about
constexpr size_t kChunkFloats = 32768;  // of packed K, and of packed V
constexpr size_t kMostChunkKeys = 512;
constexpr size_t kMostTogether = 4;  // heads that share a packed chunk: what they carry to the next grows with them

// The sizes of the buffers that one thread works in. They depend on the head size and the longest sequence, and are
// bounded.
struct Buffers {
  size_t chunk;         // keys
  size_t score_stride;  // floats
  size_t value_padded;  // value head size, in whole vectors
  size_t together;      // heads that share a packed chunk
  float *keys, *values, *queries, *scores, *outputs, *largest, *sums, *keep;
  size_t floats;

  // `longest`: keys that one unit sees at most.
  Buffers(const VarlenAttentionArguments& args, size_t longest) {
    value_padded = round_up(args.value_head_size, kLanes);
    const size_t fitting = kChunkFloats / larger(larger(args.head_size, value_padded), 1) / kTileColumns * kTileColumns;
    const size_t most = smaller(larger(fitting, kTileColumns), kMostChunkKeys);
    chunk = smaller(round_up(larger(longest, 1), kTileColumns), most);
    together = smaller(args.heads / args.key_heads, kMostTogether);
    score_stride = chunk + kLanes;  // not a power of two, so that rows do not fight for the same cache lines
    floats = 0;
    place(nullptr, args.head_size);
  }

  // Lays the buffers out from `base` on and counts their floats.
  void place(float* base, size_t head_size) {
    floats = 0;
    const auto take = [&](size_t count) {
      float* at = base ? base + floats : nullptr;
      floats += round_up(count, 16);
      return at;
    };
    keys = take(chunk * head_size);
    values = take(chunk * value_padded);
    queries = take(kBlockRows * head_size);
    scores = take(kBlockRows * score_stride);
    outputs = take(together * kUnitRows * value_padded);
    largest = take(together * kUnitRows);
    sums = take(together * kUnitRows);
    keep = take(together * kUnitRows);
  }
};

// A few queries of a unit against one chunk of its keys, for one head.
struct Block {
  const Unit& unit;
  size_t head;
  size_t first, rows;   // queries, counted from the sequence's first
  size_t start, chunk;  // keys
  bool fresh;           // the queries see nothing before this chunk
  bool alike;           // all queries see the same keys
  size_t from, width;   // keys of the chunk: what any of the queries sees is in [from, width)
  size_t place;         // of the first query in what rows carry from chunk to chunk
};

// The keys of the chunk that each query of the block sees, counted from `block.from`.
void find_seen(const VarlenAttentionArguments& args, const Block& block, Keys* seen) {
  const size_t begin = block.start + block.from, width = block.width - block.from;
  for (size_t r = 0; r < block.rows; ++r) {
    if (block.alike) {
      seen[r] = {0, width};
      continue;
    }
    seen[r] = seen_keys(args, block.unit, block.first + r).within({begin, begin + width});
  }
}

// scores = scale * query key^T, capped if they are to be, + attention bias.
void score(const VarlenAttentionArguments& args, const Block& block, const Buffers& buffers) {
  const size_t size = args.head_size;
  copy_rows(args.query.head(block.unit.query_row, block.head) + block.first * args.query.stride, args.query.stride,
            args.query.bias_of(block.head, size), block.rows, size, buffers.queries, size);
  for (size_t k = block.from; k < block.width;) {
    const size_t panel = k / kTileColumns * kTileColumns;
    const size_t vectors = (smaller(block.width - panel, kTileColumns) - (k - panel) + kLanes - 1) / kLanes;
    const Epilogue end{buffers.scores + k, buffers.score_stride, nullptr, nullptr, args.scale, vectors * kLanes};
    const Matrix keys{buffers.keys + panel * size + (k - panel), kTileColumns};
    multiply({buffers.queries, size}, block.rows, keys, size, vectors, end);
    k = panel + kTileColumns;
  }
  if (args.softcap > 0.0f)
    for (size_t r = 0; r < block.rows; ++r)
      cap_scores(buffers.scores + r * buffers.score_stride + block.from, block.width - block.from, args.softcap);
  const AttentionBias& bias = args.bias;
  if (bias.data == nullptr) return;
  const float* data = bias.data + block.unit.sequence * bias.batch_stride + block.head * bias.head_stride +
                      block.first * bias.query_stride + (block.start + block.from) * bias.key_stride;
  for (size_t r = 0; r < block.rows; ++r)
    add_bias(buffers.scores + r * buffers.score_stride + block.from, data + r * bias.query_stride, bias.key_stride,
             block.width - block.from);
}

// Turns scores into weights that are not yet divided by their sum, and brings each row's largest score and sum up to
// date, and by what the output so far must be multiplied. The loops are apart so that rows overlap in the processor.
void weigh(const VarlenAttentionArguments& args, const Block& block, const Buffers& buffers) {
  const size_t padded = round_up(block.width, kLanes) - block.from;
  float* largest = buffers.largest + block.place;
  float* sums = buffers.sums + block.place;
  float* keep = buffers.keep + block.place;
  Keys seen[kBlockRows];
  find_seen(args, block, seen);
  float* const scores = buffers.scores + block.from;
  for (size_t r = 0; r < block.rows; ++r) {
    float* row = scores + r * buffers.score_stride;
    for (size_t j = 0; j < seen[r].first; ++j) row[j] = -kInfinity;
  }
  for (size_t r = 0; r < block.rows; ++r) {
    const float before = block.fresh ? -kInfinity : largest[r];
    largest[r] = largest_of(scores + r * buffers.score_stride, seen[r].last, before);
    keep[r] = before == largest[r] ? 1.0f : before - largest[r];
  }
  if (!block.fresh)
    for (size_t r = 0; r < block.rows; ++r) keep[r] = keep[r] == 1.0f ? 1.0f : hmax(exp_below_overflow(Vec(keep[r])));
  for (size_t r = 0; r < block.rows; ++r) {
    const float sum = exponentiate(scores + r * buffers.score_stride, seen[r].last, padded, largest[r]);
    sums[r] = block.fresh ? sum : sums[r] * keep[r] + sum;
  }
}

// output = weights value * scale (per row), or outputs so far = outputs so far * keep + weights value.
void sum_values(const Block& block, size_t value_size, const Buffers& buffers, bool whole, float* output,
                size_t output_stride) {
  const size_t place = block.place;
  const Matrix weights{buffers.scores + block.from, buffers.score_stride};
  const float* values = buffers.values + block.from * buffers.value_padded;
  for (size_t c = 0; c < value_size; c += kTileColumns) {
    const size_t columns = smaller(value_size - c, kTileColumns);
    Epilogue end{output + c, output_stride, nullptr, buffers.sums + place, 1.0f, columns};
    if (!whole) {
      const float* keep = block.fresh ? nullptr : buffers.keep + place;
      end = {buffers.outputs + place * buffers.value_padded + c, buffers.value_padded, keep, nullptr, 1.0f, columns};
    }
    multiply(weights, block.rows, {values + c, buffers.value_padded}, block.width - block.from,
             (columns + kLanes - 1) / kLanes, end);
  }
}

// Zeros in place of weights that are NaN, so that nothing times a NaN is added up.
void clear_undefined(const Block& block, const Buffers& buffers) {
  for (size_t r = 0; r < block.rows; ++r) {
    if (buffers.sums[block.place + r] > 0.0f) continue;
    float* scores = buffers.scores + r * buffers.score_stride;
    for (size_t j = block.from; j < block.width; ++j) scores[j] = 0.0f;
  }
}

// The block of queries from `first` on, and what it sees of the chunk of keys that begins at `start`. No rows if there
// is nothing to do.
Block block_of(const VarlenAttentionArguments& args, const Unit& unit, size_t first, size_t height, size_t start,
               size_t chunk) {
  Block block{unit, 0, first, smaller(unit.last - first, height), start, chunk, true, false, 0, 0, 0};
  const Keys head = seen_keys(args, unit, first), tail = seen_keys(args, unit, first + block.rows - 1);
  // Rows that see no key at all pass through the first chunk.
  block.fresh = larger(head.first, unit.seen.first) >= start;
  if (head.first >= start + chunk || (tail.last <= start && !block.fresh)) {
    block.rows = 0;
    return block;
  }
  block.alike = tail.first <= start && head.last >= start + chunk;
  block.from = head.first > start ? (head.first - start) / kLanes * kLanes : 0;
  block.width = larger(smaller(larger(tail.last, start), start + chunk) - start, block.from + 1);
  return block;
}

// What rows carried from chunk to chunk, divided by their sums.
void finish(const Buffers& buffers, size_t place, size_t rows, size_t value_size, bool guard, float* output,
            size_t output_stride) {
  invert(buffers.sums + place, rows, guard);
  for (size_t r = 0; r < rows; ++r) {
    const float* from = buffers.outputs + (place + r) * buffers.value_padded;
    const float scale = buffers.sums[place + r];
    for (size_t i = 0; i < value_size; ++i) output[r * output_stride + i] = scale == 0.0f ? 0.0f : from[i] * scale;
  }
}

// Some heads of one unit, which share the head of their keys and values.
void attend(const VarlenAttentionArguments& args, const Unit& unit, size_t first_head, size_t last_head,
            const Buffers& buffers) {
  const size_t size = args.head_size, value_size = args.value_head_size;
  const size_t shared = first_head / (args.heads / args.key_heads);
  if (unit.seen.count() == 0) {
    for (size_t head = first_head; head < last_head; ++head) fill_unseen(args, unit, head);
    return;
  }
  const size_t in_cache = smaller(buffers.score_stride, unit.width + kTileColumns);
  const size_t height = smaller(larger(kBlockScores / in_cache / 12 * 12, 12), kBlockRows);
  const bool whole = unit.seen.count() <= buffers.chunk;
  const size_t output_stride = args.heads * value_size;
  const auto output_of = [&](size_t query, size_t head) {
    return args.output + (unit.query_row + query) * output_stride + head * value_size;
  };
  for (size_t start = unit.seen.first; start < unit.seen.last; start += buffers.chunk) {
    const size_t chunk = smaller(unit.seen.last - start, buffers.chunk);
    pack_keys(args.key.head(unit.key_row, shared) + start * args.key.stride, args.key.stride,
              args.key.bias_of(shared, size), chunk, size, buffers.keys);
    copy_rows(args.value.head(unit.key_row, shared) + start * args.value.stride, args.value.stride,
              args.value.bias_of(shared, value_size), chunk, value_size, buffers.values, buffers.value_padded);
    for (size_t head = first_head; head < last_head; ++head) {
      for (size_t first = unit.first; first < unit.last; first += height) {
        Block block = block_of(args, unit, first, height, start, chunk);
        if (block.rows == 0) continue;
        block.head = head;
        block.place = (head - first_head) * kUnitRows + first - unit.first;
        score(args, block, buffers);
        weigh(args, block, buffers);
        if (whole) {
          if (args.guard) clear_undefined(block, buffers);
          invert(buffers.sums + block.place, block.rows, args.guard);
        }
        sum_values(block, value_size, buffers, whole, output_of(first, head), output_stride);
      }
    }
  }
  if (whole) return;
  for (size_t head = first_head; head < last_head; ++head)
    finish(buffers, (head - first_head) * kUnitRows, unit.last - unit.first, value_size, args.guard,
           output_of(unit.first, head), output_stride);
}

}  // namespace

void varlen_attention(const VarlenAttentionArguments& args, const Parallel& parallel) {
  std::vector<Unit> units = cut_into_units(args);
  const FewQueries few(args, take_few_queries(units));
  const std::vector<Task> tasks = group_into_tasks(units, args.heads, args.key_heads);
  size_t longest = 0;
  for (const Unit& unit : units) longest = larger(longest, unit.seen.count());
  const Buffers layout(args, longest);
  const size_t group = args.heads / args.key_heads;
  parallel(tasks.size() + few.tasks(), [&](size_t t) {
    if (t >= tasks.size()) return few.attend(t - tasks.size());
    Buffers buffers = layout;
    buffers.place(scratch(layout.floats), args.head_size);
    const Task& task = tasks[t];
    for (size_t u = task.first_unit; u < task.last_unit; ++u) {
      for (size_t h = task.first_head; h < task.last_head;) {
        const size_t end_of_group = (h / group + 1) * group;
        const size_t end = smaller(smaller(h + buffers.together, end_of_group), task.last_head);
        attend(args, units[u], h, end, buffers);
        h = end;
      }
    }
  });
  few.join(parallel);
}

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
