// A memory plan: which buffers a run of a model allocates and frees, in which order, how large they are, and which lies
// on which. It comes as text in the model file, so nothing in it is believed: what could be wrong is refused here, and
// what a plan says can never make two buffers overlap that are alive at once, since that is not a thing it can say.
//
// The text is one word and then integers, apart by white space:
//
//   turbo_onnx_plan 2                                        or 1, which has no assumptions
//   alignment
//   V variables: input, axis                                 the size of an axis of an input of the marker
//   A assumptions: input, axis, W variables                  the axis has the size of their sum
//   F formulas: T terms: coefficient, V exponents            bytes
//   R variants:
//     N buffers: formula (-1: unknown), kind (0: planned, 1: on the heap)
//     M events: 0: the next buffer is allocated; k + 1: buffer k is freed (planned ones only)
//     K orders: P, and P numbers of planned buffers            all of them, the lowest first
//     D nodes of a tree: formula, formula, yes, no             is the first not larger? to node t, or to order -(t + 1)
//
// Each list has its length in front. Where two buffers are alive at once, the one that is earlier in the order lies
// below: a buffer's offset is the end of the highest of those. Which buffers those are follows from the events, and is
// worked out once, when the plan is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace turbo_onnx::arena {

struct Variable {
  int64_t input, axis;
};

// What was so in every run that was recorded; the plan holds only for runs of which it holds.
struct Assumption {
  int64_t input, axis;
  std::vector<int32_t> variables;
};

struct Formula {
  struct Term {
    int64_t coefficient;
    std::vector<uint8_t> exponents;  // of each variable
  };
  std::vector<Term> terms;
};

struct Buffer {
  int32_t formula;  // or kUnknown, which is never planned
  bool planned;
};
constexpr int32_t kUnknown = -1;

// Buffers from the bottom to the top, each with those that it lies on; the others that are below it and alive at the
// same time are below one of these.
struct Order {
  std::vector<int32_t> buffers;
  std::vector<uint32_t> first_below;  // of each, where its part of `below` begins; and the end of the last one's
  std::vector<uint32_t> below;        // positions in `buffers`
};

struct Decision {
  int32_t formula, other;
  int32_t yes, no;
};

struct Variant {
  std::vector<Buffer> buffers;
  std::vector<int32_t> events;  // kAllocate, or k + 1: buffer k is freed
  std::vector<Order> orders;
  std::vector<Decision> tree;
};
constexpr int32_t kAllocate = 0;

struct Plan {
  size_t alignment;
  std::vector<Variable> variables;
  std::vector<Assumption> assumptions;
  std::vector<Formula> formulas;
  std::vector<Variant> variants;
};

// Throws InvalidArgument with a sentence that says what is wrong and where.
Plan parse_plan(std::string_view text);

}  // namespace turbo_onnx::arena
