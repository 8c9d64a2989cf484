// The arena without ONNX Runtime, as a program that sanitizers can watch. Each mode takes a seed and a number of
// rounds, prints what it did, and ends with an error where anything is not as it should be.
//
//   arena_probe runs|threads|forks|plans|heap|failures SEED ROUNDS
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/ort/status.h"
#include "tests/arena/runs.h"

using namespace simulated;

namespace {

const char* const kPolicies[] = {"grow", "trim", "limit:20000", "limit:10000000"};

Deviation any_deviation(Random& random) {
  return static_cast<Deviation>(between(random, 0, static_cast<int64_t>(Deviation::kCount) - 1));
}

// Runs that keep to their plan are served from blocks, all of them; others are served, and give everything back.
void runs(Random& random, int rounds) {
  int64_t followed = 0;
  for (int round = 0; round < rounds; ++round) {
    const Model model = make_model(random, static_cast<int>(between(random, 0, 60)), 8);
    const Session session = open(model, kPolicies[round % 4]);
    for (int i = 0; i < 8; ++i) {
      const int64_t kept = arena::counters().kept, over = arena::counters().over_limit;
      const int64_t mismatched = arena::counters().mismatched;
      const std::vector<int64_t> sizes{between(random, 0, 6), between(random, 0, 40)};
      bool fits = true;
      for (const Formula& formula : model.formulas) fits = fits && formula.bytes(sizes[0], sizes[1]) >= 0;
      const bool keeps = i % 2 == 0;
      run(model, session, random, keeps ? Deviation::kNone : any_deviation(random), nullptr, &sizes);
      begin_run(nullptr, {});
      if (keeps) {
        expect(arena::counters().mismatched - mismatched == !fits, "a run that follows its plan was mismatched");
        expect(arena::counters().kept - kept + arena::counters().over_limit - over == fits, "a run was not counted");
        followed += arena::counters().kept - kept;
      }
      expect_all_returned();
      if (round % 4 >= 2) expect(arena::block_usage().held <= 20000 + 10000000 + (1 << 20) * 100, "too much is held");
    }
    if (round % 16 == 0) arena::trim_blocks();
  }
  arena::trim_blocks();
  arena::heap().trim();
  expect(arena::block_usage().mapped == 0 && arena::heap().usage().cached == 0, "trimming left something");
  expect(followed > rounds, "hardly a run followed its plan");
}

// Sessions are shared, memory changes hands, threads end in the middle of runs, sessions close before their runs end.
void threads(Random& random, int rounds) {
  std::vector<Model> models;
  for (int i = 0; i < 4; ++i) models.push_back(make_model(random, 30, 6));
  std::mutex mutex;
  std::vector<Held> passed_on;
  const auto work = [&](uint64_t seed) {
    Random own(seed);
    std::vector<Session> sessions;
    for (const Model& model : models) sessions.push_back(open(model, kPolicies[seed % 4]));
    for (int i = 0; i < rounds; ++i) {
      const auto which = static_cast<size_t>(between(own, 0, 3));
      std::vector<Held> left;
      run(models[which], sessions[which], own, chance(own, 0.6) ? Deviation::kNone : any_deviation(own), &left);
      if (chance(own, 0.1)) sessions[which] = open(models[which], kPolicies[between(own, 0, 3)]);
      const std::lock_guard<std::mutex> lock(mutex);
      std::swap(left, passed_on);
      for (const Held& held : left) give(held);
      if (i % 64 == 0) arena::trim_blocks();
    }
    run(models[0], sessions[0], own, Deviation::kBroken, nullptr);
  };
  for (int generation = 0; generation < 4; ++generation) {
    std::vector<std::thread> crowd;
    for (int i = 0; i < 8; ++i) crowd.emplace_back(work, random());
    for (std::thread& one : crowd) one.join();
  }
  for (const Held& held : passed_on) give(held);
  expect_all_returned();
  expect(arena::counters().kept > 0 && arena::counters().mismatched > 0, "not everything was tried");
}

// What a child process does in the place of the parent's main thread: everything that takes a lock. The memory of the
// parent's other threads is never handed out again; of their blocks none counts as used.
void live_on(const std::vector<Model>& models, const std::vector<Session>& sessions, Random& random, bool all_follow) {
  alarm(20);
  begin_run(nullptr, {});
  const auto before = arena::block_usage();
  if (all_follow) expect(before.in_use == 0, "runs of threads that are not there use blocks");
  for (int i = 0; i < 3; ++i) {
    const int64_t kept = arena::counters().kept;
    for (size_t which = 0; which < models.size(); ++which) {
      const std::vector<int64_t> sizes{between(random, 1, 6), 30 + i};
      run(models[which], sessions[which], random, Deviation::kNone, nullptr, &sizes);
      run(models[which], open(models[which], "limit:10000000"), random, Deviation::kNone, nullptr, &sizes);
      begin_run(nullptr, {});
    }
    expect(arena::counters().kept > kept, "no run of the child's keeps to its plan");
    expect(arena::block_usage().in_use == before.in_use, "a block was not released");
    arena::trim_blocks();
    arena::heap().trim();
  }
  if (all_follow) expect(arena::block_usage().held == 0, "trimming left something");
}

// A process forks again and again while its threads run. Neither parent nor child ever waits for a lock that nobody
// holds, and the child's runs are served as the parent's.
void forks(Random& random, int rounds) {
  std::vector<Model> models;
  std::vector<Session> sessions;
  for (int i = 0; i < 4; ++i) {
    models.push_back(make_model(random, 30, 6));
    sessions.push_back(open(models.back(), kPolicies[i]));
  }
  for (const bool all_follow : {true, false}) {
    std::atomic<bool> over{false};
    std::vector<std::thread> crowd;
    crowd.emplace_back([&] {  // some lock or other is held at most times
      while (!over) {
        arena::heap().release(arena::heap().allocate(100));
        arena::block_usage();
      }
    });
    for (int i = 0; i < 2; ++i) {
      crowd.emplace_back([&, seed = random()] {
        Random own(seed);
        while (!over) {
          const auto which = static_cast<size_t>(between(own, 0, 3));
          run(models[which], sessions[which], own, all_follow ? Deviation::kNone : any_deviation(own));
          if (chance(own, 0.1)) open(models[which], "limit:" + std::to_string(between(own, 1, 50)));
          if (chance(own, 0.1)) arena::trim_blocks();
        }
      });
    }
    for (int round = 0; round < rounds; ++round) {
      run(models[0], sessions[0], random, chance(random, 0.5) ? Deviation::kNone : Deviation::kBroken);
      tenants::registry().lock();
      const pid_t child = fork();
      tenants::registry().unlock();
      expect(child >= 0, "no process");
      if (child == 0) {
        live_on(models, sessions, random, all_follow);
        _exit(0);
      }
      int status = 0;
      waitpid(child, &status, 0);
      expect(status == 0, WIFSIGNALED(status) ? "a child waited for ever, or crashed" : "a child failed");
    }
    over = true;
    for (std::thread& one : crowd) one.join();
    expect_all_returned();
  }
}

std::string damaged(const std::string& text, Random& random) {
  std::istringstream in(text);
  std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
  const char* const odd[] = {
      "-1", "0",    "1",     "2",         "3", "9223372036854775807", "-9223372036854775808", "99999999999999999999",
      "x",  "4096", "65536", "1000000000"};
  for (int64_t change = between(random, 1, 3); change > 0 && words.size() > 1; --change) {
    const auto at = words.begin() + between(random, 0, static_cast<int64_t>(words.size()) - 1);
    const auto kind = between(random, 0, 5);
    if (kind == 0) words.erase(at, words.end());
    if (kind == 1) words.erase(at);
    if (kind == 2) words.insert(at, odd[between(random, 0, 11)]);
    if (kind == 3) *at = odd[between(random, 0, 11)];
    if (kind == 4) *at = std::to_string(between(random, 0, 40));
    if (kind == 5)
      std::swap(*at, words[static_cast<size_t>(between(random, 0, static_cast<int64_t>(words.size()) - 1))]);
  }
  std::string joined;
  for (const std::string& word : words) joined += word + " ";
  return chance(random, 0.1) ? joined.substr(0, joined.size() / 2) : joined;
}

// A damaged plan is refused with a sentence, or it is a plan: then a model that it was not made for runs under it.
void plans(Random& random, int rounds) {
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    const Model model = make_model(random, static_cast<int>(between(random, 1, 12)), 4);
    try {
      arena::Plan plan = arena::parse_plan(damaged(model.text(), random));
      const auto session =
          std::make_shared<arena::PlannedSession>(std::move(plan), arena::pool(arena::parse_policy("trim")), nullptr);
      for (int i = 0; i < 3; ++i) run(model, session, random, any_deviation(random));
    } catch (const turbo_onnx::InvalidArgument& error) {
      ++refused;
      expect(std::strlen(error.what()) < 300, "a sentence is too long");
    }
    expect_all_returned();
  }
  expect(refused > rounds / 4 && refused < rounds, "not everything was tried");
}

// Any sizes in any order, and whatever is kept stays within its bound.
void heap(Random& random, int rounds) {
  std::vector<Held> held;
  size_t most = 0, most_asked = 0;
  for (int round = 0; round < rounds; ++round) {
    const size_t limit = size_t{1} << between(random, 0, 20);
    const bool grow = held.size() < 40 && chance(random, 0.5);
    if (grow) {
      held.push_back(take(static_cast<size_t>(between(random, 1, static_cast<int64_t>(limit))), 3));
      expect(held.back().memory != nullptr, "no memory");
    } else if (!held.empty()) {
      const auto which = between(random, 0, static_cast<int64_t>(held.size()) - 1);
      give(held[static_cast<size_t>(which)]);
      held.erase(held.begin() + which);
    }
    const auto usage = arena::heap().usage();
    size_t asked = 0;
    for (const Held& one : held) asked += one.bytes;
    // At most twice what was asked for, but for what was there and made no more come into use than was before.
    most_asked = std::max(most_asked, asked + asked / 8 + held.size() * 128);
    expect(usage.in_use >= asked, "a piece is too small");
    expect(usage.in_use <= std::max(asked * 9 / 4 + held.size() * 192, most_asked), "pieces are too large");
    most = std::max(most, usage.in_use);
    expect(usage.in_use + usage.cached <= most + most / 8 + (2 << 20), "too much is kept");
  }
  for (const Held& one : held) give(one);
  void* weights = arena::heap().reserve(1000);
  std::memset(weights, 1, 1000);
  expect(arena::heap().usage().reserved > 0, "what is reserved is not counted");
  arena::deallocate(weights);
  arena::heap().trim();
  for (size_t bytes = 1; bytes < 1 << 20; bytes += bytes / 7 + 1) {  // nothing that is kept can be used again
    const Held fresh = take(bytes, 5);
    expect(arena::heap().usage().in_use <= (bytes + 64) * 9 / 8 + 64, "the size classes waste");
    give(fresh);
    arena::heap().trim();
  }
  const auto usage = arena::heap().usage();
  expect(usage.in_use == 0 && usage.cached == 0 && usage.reserved == 0, "something is left");
}

// Whatever fails, and however often: nothing crashes, nothing is lost, and with memory again all is as before.
void failures(Random& random, int rounds) {
  size_t failed = 0;
  for (int round = 0; round < rounds; ++round) {
    const Model model = make_model(random, 12, 4);
    const std::vector<int64_t> sizes{6, 40};
    for (size_t at = 0, requests = 1; at < requests; ++at) {
      arena::trim_blocks();
      arena::heap().trim();
      failing::arm(at, chance(random, 0.5) ? 1 : 1000);
      try {
        const Session session = open(model, at % 2 ? "trim" : "grow");
        for (int i = 0; i < 2; ++i) {
          failed += !run(model, session, random, i ? any_deviation(random) : Deviation::kNone, nullptr, &sizes);
        }
        const failing::InArena in_arena;
        arena::begin_recording();
      } catch (const std::bad_alloc&) {
        ++failed;
      }
      run(model, nullptr, random, Deviation::kNone, nullptr, &sizes);
      arena::Recorder::Event events[4];
      arena::end_recording(events, 4);
      requests = failing::disarm();
      expect_all_returned();
      const int64_t kept = arena::counters().kept;
      const Session session = open(model, "trim");
      expect(run(model, session, random, Deviation::kNone, nullptr, &sizes), "memory did not come back");
      bool fits = true;
      for (const Formula& formula : model.formulas) fits = fits && formula.bytes(6, 40) >= 0;
      expect(arena::counters().kept - kept == fits, "plans did not come back");
    }
  }
  expect(failed > static_cast<size_t>(rounds), "hardly anything failed");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return 2;
  const std::string mode = arguments[1];
  Random random(std::strtoull(arguments[2], nullptr, 10));
  const int rounds = std::atoi(arguments[3]);
  if (mode == "runs") runs(random, rounds);
  if (mode == "threads") threads(random, rounds);
  if (mode == "forks") forks(random, rounds);
  if (mode == "plans") plans(random, rounds);
  if (mode == "heap") heap(random, rounds);
  if (mode == "failures") failures(random, rounds);
  const arena::Counters& seen = arena::counters();
  std::printf("%s: announced %lld kept %lld mismatched %lld abandoned %lld over limit %lld served %lld\n", mode.c_str(),
              static_cast<long long>(seen.announced), static_cast<long long>(seen.kept),
              static_cast<long long>(seen.mismatched), static_cast<long long>(seen.abandoned),
              static_cast<long long>(seen.over_limit), static_cast<long long>(seen.served));
}
