#include "custom_ops/arena/plan.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <string>

#include "custom_ops/arena/stacking.h"
#include "custom_ops/ort/status.h"

namespace turbo_onnx::arena {
namespace {

constexpr const char* kWord = "turbo_onnx_plan";
constexpr int64_t kVersion = 2, kVersionWithoutAssumptions = 1;
constexpr int64_t kLeastAlignment = 64, kMostAlignment = 4096;
constexpr int64_t kMostVariables = 64, kMostExponent = 8, kMostBuffers = 1 << 16;

// Splits the text into integers, and knows which one it is at when something is wrong.
class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {
    if (word() != kWord) refuse("it does not begin with the word " + std::string(kWord));
  }

  // The next integer, which is `what`, in [low, high].
  int64_t number(const char* what, int64_t low, int64_t high) {
    const std::string_view token = word();
    if (token.empty()) refuse(std::string("it ends where ") + what + " should be");
    int64_t value = 0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), value);
    const bool whole = error == std::errc() && end == token.data() + token.size();
    if (!whole || value < low || value > high) {
      refuse(where() + "is " + std::string(token.substr(0, 40)) + ", but " + what + " is an integer from " +
             std::to_string(low) + " to " + std::to_string(high));
    }
    return value;
  }

  int32_t small(const char* what, int64_t low, int64_t high) { return static_cast<int32_t>(number(what, low, high)); }

  // The length of a list. No list is longer than the text, so nothing is reserved for what is not there.
  size_t count(const char* what, int64_t high = std::numeric_limits<int32_t>::max()) {
    const auto length = static_cast<size_t>(number(what, 0, high));
    if (length > rest_.size())
      refuse(where() + "is " + std::to_string(length) + ", but that is more than the text has");
    return length;
  }

  void end() {
    if (!word().empty()) refuse("it goes on after its end");
  }

  std::string where() const { return "number " + std::to_string(words_ - 1) + " "; }

  [[noreturn]] void refuse(const std::string& sentence) const {
    throw InvalidArgument("the memory plan is damaged: " + sentence);
  }

 private:
  std::string_view word() {
    constexpr const char* kSpace = " \t\r\n";
    const size_t first = rest_.find_first_not_of(kSpace);
    rest_.remove_prefix(first == std::string_view::npos ? rest_.size() : first);
    const size_t length = std::min(rest_.find_first_of(kSpace), rest_.size());
    const std::string_view token = rest_.substr(0, length);
    rest_.remove_prefix(length);
    ++words_;
    return token;
  }

  std::string_view rest_;
  size_t words_ = 0;
};

void read_variables(Reader& reader, Plan& plan) {
  plan.variables.resize(reader.count("the number of variables", kMostVariables));
  for (Variable& variable : plan.variables) {
    variable.input = reader.number("an input", 0, std::numeric_limits<int32_t>::max());
    variable.axis = reader.number("an axis", 0, std::numeric_limits<int32_t>::max());
  }
}

void read_assumptions(Reader& reader, Plan& plan) {
  plan.assumptions.resize(reader.count("the number of assumptions"));
  const auto variables = static_cast<int64_t>(plan.variables.size());
  for (Assumption& assumption : plan.assumptions) {
    assumption.input = reader.number("an input", 0, std::numeric_limits<int32_t>::max());
    assumption.axis = reader.number("an axis", 0, std::numeric_limits<int32_t>::max());
    assumption.variables.resize(reader.count("the number of variables", kMostVariables));
    for (int32_t& variable : assumption.variables) variable = reader.small("a variable", 0, variables - 1);
  }
}

void read_formulas(Reader& reader, Plan& plan) {
  constexpr auto kLimits = std::numeric_limits<int64_t>();
  plan.formulas.resize(reader.count("the number of formulas"));
  for (Formula& formula : plan.formulas) {
    formula.terms.resize(reader.count("the number of terms"));
    for (Formula::Term& term : formula.terms) {
      term.coefficient = reader.number("a coefficient", kLimits.min(), kLimits.max());
      term.exponents.resize(plan.variables.size());
      for (uint8_t& exponent : term.exponents) {
        exponent = static_cast<uint8_t>(reader.number("an exponent", 0, kMostExponent));
      }
    }
  }
}

void read_buffers(Reader& reader, const Plan& plan, Variant& variant) {
  variant.buffers.resize(reader.count("the number of buffers", kMostBuffers));
  const auto formulas = static_cast<int64_t>(plan.formulas.size());
  for (Buffer& buffer : variant.buffers) {
    buffer.formula = reader.small("a formula, or -1", kUnknown, formulas - 1);
    buffer.planned = reader.number("a kind of buffer", 0, 1) == 0 && buffer.formula != kUnknown;
  }
}

// Every buffer is allocated once, and every planned one is freed once, afterwards.
void read_events(Reader& reader, Variant& variant) {
  variant.events.resize(reader.count("the number of events"));
  const size_t buffers = variant.buffers.size();
  std::vector<bool> alive(buffers);
  size_t allocated = 0, living = 0;
  for (int32_t& event : variant.events) {
    event = reader.small("an event", 0, static_cast<int64_t>(buffers));
    if (event == kAllocate) {
      if (allocated == buffers) reader.refuse(reader.where() + "allocates more buffers than there are");
      alive[allocated] = variant.buffers[allocated].planned;
      living += alive[allocated++];
    } else {
      const auto buffer = static_cast<size_t>(event - 1);
      if (!alive[buffer]) {
        reader.refuse(reader.where() + "frees buffer " + std::to_string(buffer) +
                      ", which is not planned, or not alive there");
      }
      alive[buffer] = false;
      --living;
    }
  }
  if (allocated != buffers) reader.refuse("the events up to " + reader.where() + "allocate too few buffers");
  if (living != 0) reader.refuse("the events up to " + reader.where() + "do not free every planned buffer");
}

void read_orders(Reader& reader, Variant& variant) {
  const Conflicts conflicts = conflicts_of(variant);
  const size_t orders = reader.count("the number of orders");
  if (orders == 0) reader.refuse(reader.where() + "is 0, but there must be an order");
  for (size_t i = 0; i < orders; ++i) {
    const size_t length = reader.count("the number of planned buffers");
    if (length != conflicts.planned) {
      reader.refuse(reader.where() + "orders " + std::to_string(length) + " buffers, but " +
                    std::to_string(conflicts.planned) + " are planned");
    }
    std::vector<int32_t> buffers(length);
    std::vector<bool> seen(variant.buffers.size());
    for (int32_t& buffer : buffers) {
      buffer = reader.small("a buffer", 0, static_cast<int64_t>(variant.buffers.size()) - 1);
      const auto index = static_cast<size_t>(buffer);
      if (seen[index] || !variant.buffers[index].planned) {
        reader.refuse(reader.where() + "orders buffer " + std::to_string(buffer) + " twice, or it is not planned");
      }
      seen[index] = true;
    }
    variant.orders.push_back(make_order(conflicts, std::move(buffers)));
  }
}

void read_tree(Reader& reader, const Plan& plan, Variant& variant) {
  variant.tree.resize(reader.count("the number of decisions"));
  const auto formulas = static_cast<int64_t>(plan.formulas.size());
  const auto nodes = static_cast<int64_t>(variant.tree.size());
  const auto orders = static_cast<int64_t>(variant.orders.size());
  int64_t node = 0;
  for (Decision& decision : variant.tree) {
    decision.formula = reader.small("a formula", 0, formulas - 1);
    decision.other = reader.small("a formula", 0, formulas - 1);
    for (int32_t* target : {&decision.yes, &decision.no}) {
      *target = reader.small("a decision or an order", -orders, nodes - 1);
      if (*target >= 0 && *target <= node) reader.refuse(reader.where() + "leads back in the tree of decisions");
    }
    ++node;
  }
}

}  // namespace

Plan parse_plan(std::string_view text) {
  Reader reader(text);
  const int64_t version =
      reader.number("the version of a format that this library knows", kVersionWithoutAssumptions, kVersion);
  Plan plan{};
  plan.alignment = static_cast<size_t>(reader.number("an alignment", kLeastAlignment, kMostAlignment));
  if ((plan.alignment & (plan.alignment - 1)) != 0) reader.refuse(reader.where() + "is no power of two");
  read_variables(reader, plan);
  if (version != kVersionWithoutAssumptions) read_assumptions(reader, plan);
  read_formulas(reader, plan);
  plan.variants.resize(reader.count("the number of variants"));
  if (plan.variants.empty()) reader.refuse(reader.where() + "is 0, but there must be a variant");
  for (Variant& variant : plan.variants) {
    read_buffers(reader, plan, variant);
    read_events(reader, variant);
    read_orders(reader, variant);
    read_tree(reader, plan, variant);
  }
  reader.end();
  return plan;
}

}  // namespace turbo_onnx::arena
