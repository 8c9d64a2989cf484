// Random models, as the arena sees them: a plan, and runs that follow it or do not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace simulated {

using Random = std::mt19937_64;

inline int64_t between(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

inline bool chance(Random& random, double share) { return std::uniform_real_distribution<>(0, 1)(random) < share; }

// bytes = coefficient · B^b · S^s + constant
struct Formula {
  int64_t coefficient, b, s, constant;
  int64_t bytes(int64_t batch, int64_t length) const {
    return coefficient * (b ? batch : 1) * (s > 0 ? length : 1) * (s > 1 ? length : 1) + constant;
  }
};

struct Buffer {
  int formula;  // -1: unknown
  bool planned;
};

struct Model {
  std::vector<Formula> formulas;
  std::vector<Buffer> buffers;
  std::vector<int> events;  // as in the plan: 0, or k + 1
  std::vector<std::vector<int>> orders;
  std::vector<std::vector<int>> tree;

  std::string text() const {
    std::ostringstream out;
    out << "turbo_onnx_plan 1\n64\n2 0 0 0 1\n" << formulas.size() << "\n";
    for (const Formula& f : formulas) {
      out << (f.constant ? 2 : 1) << " " << f.coefficient << " " << f.b << " " << f.s << " ";
      if (f.constant) out << f.constant << " 0 0 ";
    }
    out << "\n1\n" << buffers.size() << "\n";
    for (const Buffer& buffer : buffers) out << buffer.formula << " " << !buffer.planned << " ";
    out << "\n" << events.size() << "\n";
    for (const int event : events) out << event << " ";
    out << "\n" << orders.size() << "\n";
    for (const auto& order : orders) {
      out << order.size();
      for (const int buffer : order) out << " " << buffer;
      out << "\n";
    }
    out << tree.size() << "\n";
    for (const auto& node : tree) {
      for (const int number : node) out << number << " ";
    }
    return out.str();
  }
};

// `alive`: how many planned buffers are alive at once, more or less.
inline Model make_model(Random& random, int buffers, int alive) {
  Model model;
  const int formulas = static_cast<int>(between(random, 1, 6));
  for (int i = 0; i < formulas; ++i) {
    const int64_t s = between(random, 0, 2);
    model.formulas.push_back({between(random, 1, s == 2 ? 4 : 64), between(random, 0, 1), s,
                              chance(random, 0.3) ? between(random, -8, 200) : 0});
  }
  std::vector<int> living;
  for (int i = 0; i < buffers; ++i) {
    while (!living.empty() && between(random, 0, alive) < static_cast<int64_t>(living.size())) {
      const auto which = between(random, 0, static_cast<int64_t>(living.size()) - 1);
      model.events.push_back(living[static_cast<size_t>(which)] + 1);
      living.erase(living.begin() + which);
    }
    const bool unknown = chance(random, 0.05), planned = !unknown && !chance(random, 0.1);
    model.buffers.push_back({unknown ? -1 : static_cast<int>(between(random, 0, formulas - 1)), planned});
    model.events.push_back(0);
    if (planned) living.push_back(i);
  }
  std::shuffle(living.begin(), living.end(), random);
  for (const int buffer : living) model.events.push_back(buffer + 1);
  std::vector<int> order;
  for (int i = 0; i < buffers; ++i) {
    if (model.buffers[static_cast<size_t>(i)].planned) order.push_back(i);
  }
  const int orders = static_cast<int>(between(random, 1, 3));
  for (int i = 0; i < orders; ++i) {
    std::shuffle(order.begin(), order.end(), random);
    model.orders.push_back(order);
  }
  const int nodes = orders - 1;
  for (int i = 0; i < nodes; ++i) {
    const auto formula = [&] { return static_cast<int>(between(random, 0, formulas - 1)); };
    const auto target = [&] {
      const bool further = i + 1 < nodes && chance(random, 0.5);
      return static_cast<int>(further ? between(random, i + 1, nodes - 1) : -between(random, 1, orders));
    };
    const int a = formula(), b = formula(), yes = target(), no = target();
    model.tree.push_back({a, b, yes, no});
  }
  return model;
}

}  // namespace simulated
