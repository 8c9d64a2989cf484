// Attention of a few queries, as when a text is written one token at a time: it takes as long as reading keys and
// values.
//
// So they are read once, where they lie. What one head of keys serves are rows: its sequence's queries, in the heads
// that share it, a few of them at a time. The keys that they see are cut into spans, so that there is work for several
// threads where there are few heads. For a span each row gets its largest score, the sum of its weights and the
// weighted sum of the values; those of all spans are joined at the end (Dao, Haziza, Massa and Sizov, "Flash-Decoding",
// 2023). Spans are cut by the sequence's own shape, so that results depend neither on the number of threads nor on
// other sequences, and no row's on how many share its keys.
#pragma once

#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "custom_ops/cpu/scratch.h"
#include "custom_ops/cpu/sizes.h"
#include "custom_ops/cpu/vector.h"
#include "custom_ops/varlen_attention/cpu.h"
#include "custom_ops/varlen_attention/packing.h"
#include "custom_ops/varlen_attention/seen.h"
#include "custom_ops/varlen_attention/softmax.h"
#include "custom_ops/varlen_attention/tiles.h"

namespace turbo_onnx {
namespace TURBO_ISA {

constexpr size_t kFewQueries = 4;          // of a sequence: for more it pays to pack the keys
constexpr size_t kMostRows = 8;            // that one span is for
constexpr size_t kSpanFloats = 32768;      // of keys and values of one span
constexpr size_t kSpanStep = 16;           // of keys: whole vectors
constexpr size_t kMostSpanKeys = 512;      // whose scores fit the first-level cache
constexpr size_t kSpanTaskFloats = 16384;  // keys and values that are worth handing to a thread
constexpr size_t kJoinTaskFloats = 16384;  // the same for the parts of rows

// Takes those units out of the list that are few queries: the whole sequences of few.
inline std::vector<Unit> take_few_queries(std::vector<Unit>& units) {
  std::vector<Unit> few, others;
  for (const Unit& unit : units) (unit.queries <= kFewQueries ? few : others).push_back(unit);
  units.swap(others);
  return few;
}

// scores[r][j] = scale * queries[r] (keys[j] + bias). Queries are rows of `size` floats, with zeros up to whole
// vectors. Scores are written up to whole vectors, too, and have any value beyond the last key.
inline void dot_products(const float* queries, size_t rows, const float* keys, size_t stride, const float* bias,
                         size_t count, size_t size, float scale, float* scores, size_t score_stride) {
  const size_t padded = round_up(size, kLanes);
  for (size_t j = 0; j < count; j += kLanes) {
    const float* block = keys + j * stride;
    const size_t last = smaller(count - j, kLanes) - 1;
    for (size_t r = 0; r < rows; ++r) {
      Vec sums[kLanes];
#pragma GCC unroll 16
      for (size_t i = 0; i < kLanes; ++i) sums[i] = Vec(0.0f);
      for (size_t d = 0; d < size; d += kLanes) {
        const Vec query = load(queries + r * padded + d);
        if (last == kLanes - 1 && size - d >= kLanes) {
          const Vec shift = bias ? load(bias + d) : Vec(0.0f);
#pragma GCC unroll 16
          for (size_t i = 0; i < kLanes; ++i)
            sums[i] = fma(bias ? load(block + i * stride + d) + shift : load(block + i * stride + d), query, sums[i]);
        } else {
          const size_t depth = smaller(size - d, kLanes);
          const Vec shift = bias ? load(bias + d, depth) : Vec(0.0f);
#pragma GCC unroll 16
          for (size_t i = 0; i < kLanes; ++i)
            sums[i] = fma(load(block + smaller(i, last) * stride + d, depth) + shift, query, sums[i]);
        }
      }
      store(scores + r * score_stride + j, sums_of(sums) * Vec(scale));
    }
  }
}

// The sequences of few queries of one run.
class FewQueries {
 public:
  FewQueries(const VarlenAttentionArguments& args, std::vector<Unit> units)
      : args_(args),
        units_(std::move(units)),
        group_(args.heads / args.key_heads),
        size_padded_(round_up(args.head_size, kLanes)),
        value_padded_(round_up(args.value_head_size, kLanes)) {
    cut_into_spans();
    group_into_tasks();
  }

  size_t tasks() const { return tasks_.size(); }

  // Computes the spans of one task, and the output of rows that have no other span.
  void attend(size_t task) const {
    for (size_t s = tasks_[task].first; s < tasks_[task].last; ++s) attend(spans_[s]);
  }

  // Computes the output of rows that have several spans.
  void join(const Parallel& parallel) const {
    size_t most = 1;
    for (const Split& split : splits_) most = larger(most, split.spans * part_floats(split.rows));
    const size_t together = larger(kJoinTaskFloats / most, 1);
    parallel((splits_.size() + together - 1) / together, [&](size_t item) {
      for (size_t s = item * together; s < smaller((item + 1) * together, splits_.size()); ++s) {
        const Split& split = splits_[s];
        join(split.rows, parts_.data + split.part, split.spans);
      }
    });
  }

 private:
  // Some heads of one sequence's queries, which share a head of keys.
  struct Rows {
    size_t unit, first_head, last_head;

    size_t heads() const { return last_head - first_head; }
  };

  // Keys that rows see, for one thread at a time.
  struct Span {
    Rows rows;
    Keys keys;
    size_t part;  // where in parts_ what comes out is; kWhole where it is all that the rows see
  };

  // Rows whose keys were cut into several spans. Their parts are neighbours.
  struct Split {
    Rows rows;
    size_t part, spans;
  };

  struct Task {
    size_t first, last;  // spans
  };

  // What rows have of a span: the weighted sum of the values [rows][value_padded_] and, of each row, the largest score
  // and the sum of the weights.
  struct Part {
    float *outputs, *largest, *sums;
  };

  static constexpr size_t kWhole = SIZE_MAX;

  size_t count(const Rows& rows) const { return units_[rows.unit].queries * rows.heads(); }

  size_t part_floats(const Rows& rows) const { return round_up(count(rows) * (value_padded_ + 2), 16); }

  Part part_at(float* data, size_t rows) const {
    float* largest = data + rows * value_padded_;
    return {data, largest, largest + rows};
  }

  void cut_into_spans() {
    const size_t fitting = kSpanFloats / larger(args_.head_size + value_padded_, 1) / kSpanStep * kSpanStep;
    const size_t most = smaller(larger(fitting, kSpanStep), kMostSpanKeys);
    size_t floats = 0;
    for (size_t u = 0; u < units_.size(); ++u) {
      const Keys seen = units_[u].seen;
      const size_t spans = larger((seen.count() + most - 1) / most, 1);
      const size_t keys = round_up((seen.count() + spans - 1) / spans, kSpanStep);
      const size_t together = smaller(kMostRows / units_[u].queries, group_);
      for (size_t shared = 0; shared < args_.key_heads; ++shared) {
        // Those that read the same keys and values are neighbours.
        for (size_t i = 0; i < spans; ++i) {
          const size_t first = smaller(seen.first + i * keys, seen.last);
          const Keys own{first, smaller(first + keys, seen.last)};
          size_t part = floats;
          for (size_t h = 0; h < group_; h += together) {
            const Rows rows{u, shared * group_ + h, shared * group_ + smaller(h + together, group_)};
            if (i == 0 && spans > 1) splits_.push_back({rows, part, spans});
            spans_.push_back({rows, own, spans > 1 ? part + i * part_floats(rows) : kWhole});
            part += spans * part_floats(rows);
          }
          if (i + 1 == spans && spans > 1) floats = part;
        }
      }
    }
    parts_.allocate(floats);
  }

  void group_into_tasks() {
    for (size_t s = 0; s < spans_.size();) {
      const size_t first = s;
      for (size_t floats = 0; s < spans_.size() && floats < kSpanTaskFloats; ++s)
        floats += larger(spans_[s].keys.count(), 1) * (args_.head_size + args_.value_head_size);
      tasks_.push_back({first, s});
    }
  }

  void attend(const Span& span) const {
    const Unit& unit = units_[span.rows.unit];
    const size_t rows = count(span.rows), shared = span.rows.first_head / group_;
    const size_t keys = span.keys.count(), size = args_.head_size;
    if (unit.seen.count() == 0) {
      for (size_t h = span.rows.first_head; h < span.rows.last_head; ++h) fill_unseen(args_, unit, h);
      return;
    }
    const bool copied = args_.value_head_size % kLanes != 0;  // products read whole vectors of values
    const size_t score_stride = round_up(keys, kLanes) + kLanes;
    const size_t query_floats = rows * size_padded_, score_floats = rows * score_stride;
    const size_t value_floats = copied ? keys * value_padded_ : 0;
    float* const queries = scratch(query_floats + score_floats + part_floats(span.rows) + value_floats);
    float* const scores = queries + query_floats;
    float* const values = scores + score_floats + part_floats(span.rows);
    const Part part = part_at(span.part == kWhole ? scores + score_floats : parts_.data + span.part, rows);

    for (size_t h = 0; h < span.rows.heads(); ++h) {
      const size_t head = span.rows.first_head + h;
      copy_rows(args_.query.head(unit.query_row, head), args_.query.stride, args_.query.bias_of(head, size),
                unit.queries, size, queries + h * unit.queries * size_padded_, size_padded_);
    }
    dot_products(queries, rows, args_.key.head(unit.key_row, shared) + span.keys.first * args_.key.stride,
                 args_.key.stride, args_.key.bias_of(shared, size), keys, size, args_.scale, scores, score_stride);
    weigh(span, scores, score_stride, part);
    const float* from = args_.value.head(unit.key_row, shared) + span.keys.first * args_.value.stride;
    if (copied) copy_rows(from, args_.value.stride, nullptr, keys, args_.value_head_size, values, value_padded_);
    const size_t value_stride = copied ? value_padded_ : args_.value.stride;
    for (size_t c = 0; c < args_.value_head_size; c += kTileColumns) {
      const size_t columns = smaller(args_.value_head_size - c, kTileColumns);
      const Epilogue end{part.outputs + c, value_padded_, nullptr, nullptr, 1.0f, columns};
      multiply({scores, score_stride}, rows, {(copied ? values : from) + c, value_stride}, keys,
               (columns + kLanes - 1) / kLanes, end);
    }
    if (span.part == kWhole) join(span.rows, part.outputs, 1);
  }

  // Turns scores into weights that are not yet divided by their sum.
  void weigh(const Span& span, float* scores, size_t score_stride, Part part) const {
    const Unit& unit = units_[span.rows.unit];
    const size_t keys = span.keys.count();
    const AttentionBias& bias = args_.bias;
    for (size_t r = 0; r < count(span.rows); ++r) {
      float* const row = scores + r * score_stride;
      const size_t query = r % unit.queries;
      if (args_.softcap > 0.0f) cap_scores(row, keys, args_.softcap);
      if (bias.data) {
        const size_t head = span.rows.first_head + r / unit.queries;
        add_bias(row,
                 bias.data + unit.sequence * bias.batch_stride + head * bias.head_stride + query * bias.query_stride +
                     span.keys.first * bias.key_stride,
                 bias.key_stride, keys);
      }
      const Keys seen = seen_keys(args_, unit, query).within(span.keys);
      for (size_t j = 0; j < seen.first; ++j) row[j] = -kInfinity;
      part.largest[r] = largest_of(row, seen.last, -kInfinity);
      part.sums[r] = exponentiate(row, seen.last, round_up(keys, kLanes), part.largest[r]);
    }
  }

  // Writes the output of rows from their parts, which are neighbours from `data` on.
  void join(const Rows& of, float* data, size_t spans) const {
    const Unit& unit = units_[of.unit];
    const size_t rows = count(of), stride = part_floats(of), width = args_.value_head_size;
    const float* bias = args_.value.bias_of(of.first_head / group_, width);
    for (size_t r = 0; r < rows; ++r) {
      float largest = -kInfinity, sum = 0.0f;
      for (size_t p = 0; p < spans; ++p) {
        const float own = part_at(data + p * stride, rows).largest[r];
        largest = own > largest ? own : largest;
      }
      for (size_t p = 0; p < spans; ++p) {
        const Part part = part_at(data + p * stride, rows);
        float& keep = part.largest[r];
        keep = keep == largest ? 1.0f : hmax(exp_below_overflow(Vec(keep - largest)));
        sum += part.sums[r] * keep;
      }
      invert(&sum, 1, args_.guard);
      const size_t query = unit.query_row + r % unit.queries, head = of.first_head + r / unit.queries;
      float* const output = args_.output + (query * args_.heads + head) * width;
      for (size_t i = 0; i < width; i += kLanes) {
        const size_t columns = smaller(width - i, kLanes);
        Vec total(0.0f);
        for (size_t p = 0; p < spans && sum != 0.0f; ++p) {
          const Part part = part_at(data + p * stride, rows);
          total = fma(load(part.outputs + r * value_padded_ + i), Vec(part.largest[r]), total);
        }
        total *= Vec(sum);
        if (bias && sum != 0.0f) total += load(bias + i, columns);
        store(output + i, total, columns);
      }
    }
  }

  const VarlenAttentionArguments& args_;
  const std::vector<Unit> units_;
  const size_t group_;  // heads of queries that share one of keys
  const size_t size_padded_, value_padded_;
  std::vector<Span> spans_;
  std::vector<Split> splits_;
  std::vector<Task> tasks_;
  Memory parts_;
};

}  // namespace TURBO_ISA
}  // namespace turbo_onnx
