// Memory that runs out at the n-th request, for every n: each call ends by std::bad_alloc or an Error, leaves no file
// and no lock behind, and works afterwards.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "archive.hpp"
#include "core/parallel.hpp"
#include "fokker/fokker.hpp"
#include "io/json.hpp"
#include "scratch.hpp"

namespace {

constexpr long never = std::numeric_limits<long>::max();
std::atomic<long> requests_left{never};  // that are served
std::atomic<bool> fails_once{true};      // then or for good

}  // namespace

// Not inlined, where the compiler would take the pair for mismatched.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (requests_left.load() != never) {
    const long left = requests_left.fetch_sub(1);
    if (left == 0 || (left < 0 && !fails_once)) throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
// Else a sanitizer's own would give what the delete below does not take.
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace fokker {
namespace {

using testing::put;
using testing::Scratch;

// The number of requests that `call` makes; each of them fails once, alone and with all that follow.
long requests_survived(const std::function<void()>& call) {
  call();  // what is made once only
  for (long n = 0; n < 100'000; ++n) {
    bool failed = false;
    for (const bool once : {true, false}) {
      fails_once = once;
      requests_left = n;
      try {
        call();
      } catch (const std::bad_alloc&) {
      } catch (const Error&) {
      }
      failed = requests_left < 0;
      requests_left = never;
    }
    if (!failed) return n;
  }
  ADD_FAILURE() << "the call never comes to its end";
  return 0;
}

class Memory : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef FOKKER_OTHER_OPERATOR_NEW
    GTEST_SKIP() << "the sanitizer has an operator new of its own, which makes no request fail";
#endif
  }
};

TEST_F(Memory, RunsOutInReadersWithoutHarm) {
  const Scratch scratch;
  const std::string mixture = R"({"weights": [1, 3], "means": [[0, 1], [2, 3]], "covariances": [2, 3], "sde": "ve",
                                  "metadata": {"long enough for memory of its own":
                                               [[], {}, [1, "and this one as well"]]}})";
  put(scratch / "m.json", mixture);
  EXPECT_GT(requests_survived([&] { load_model(scratch / "m.json"); }), 20);
  EXPECT_GT(requests_survived([&] { parse_json(mixture, "it", 8).dump(); }), 20);
  EXPECT_GT(requests_survived([] { ForwardSde::parse("ve", "{\"sigma_max\": 7}").parameters_json(); }), 5);
  Architecture architecture;
  architecture.hidden = {3, 2};
  const Model network{ForwardSde{}, Mlp::initialise(architecture, 1)};
  save_model(scratch / "n.safetensors", network);
  EXPECT_GT(requests_survived([&] { load_model(scratch / "n.safetensors"); }), 50);
  const double numbers[] = {1, 2, 3};
  save_npy(scratch / "t.npy", {3}, numbers);
  EXPECT_GT(requests_survived([&] { load_array(scratch / "t.npy"); }), 3);
  put(scratch / "t.csv", "the names of columns, of more than one\n1,2\n3,4\n");
  EXPECT_GT(requests_survived([&] { load_array(scratch / "t.csv"); }), 3);
  const std::string array = testing::npy_of("<f8", "(3, 1)", std::string(24, '\0'));
  put(scratch / "t.npz", testing::archive({{.name = "x.npy", .bytes = array}, {.name = "y.npy", .bytes = "none"}}));
  EXPECT_GT(requests_survived([&] { load_array(scratch / "t.npz"); }), 9);
  EXPECT_GT(requests_survived([] { TimeGrid::parse("geometric:5:1e-2", ForwardSde{}); }), 0);
}

TEST_F(Memory, RunsOutInWritersAndLeavesNoTemporary) {
  const Scratch scratch;
  Architecture architecture;
  architecture.hidden = {3, 2};
  const Model network{ForwardSde{}, Mlp::initialise(architecture, 1)},
      mixture{ForwardSde{}, GaussianMixture(1, {1}, {0}, {1})};
  EXPECT_GT(requests_survived([&] { save_model(scratch / "n.safetensors", network); }), 50);
  EXPECT_GT(requests_survived([&] { save_model(scratch / "m.json", mixture, {{"a", "b"}}); }), 20);
  EXPECT_GT(requests_survived([&] { write_text(scratch / "t", "text"); }), 3);
  EXPECT_EQ(scratch.list(), (std::set<std::string>{"m.json", "n.safetensors", "t"}));
}

TEST_F(Memory, RunsOutInDistancesAndThreads) {
  const Grid grid = Grid::within(1, 4);
  std::vector<double> a(16, 0.0), b(16, 0.0);
  a[1] = a[9] = b[2] = b[14] = 0.5;
  EXPECT_GT(requests_survived([&] { w2_squared(a, b, grid); }), 20);
  EXPECT_EQ(w2_squared(a, b, grid).certificate_gap(), 0);
  const Context context({.backend = BackendKind::cpu, .threads = 1});
  const std::vector<float> x{0, 1, 2, 3}, y{4, 0};  // of sums in few digits
  const auto of_points = [&] { return w2_squared_of_points(context, View<const float>(x), View<const float>(y)); };
  EXPECT_GT(requests_survived([&] { of_points(); }), 20);
  EXPECT_EQ(of_points().certificate_gap(), 0);
  std::atomic<int> done{0};
  const auto work = [&](std::int64_t, int) {
    std::vector<double> own(1000);
    done += own[7] == 0;
  };
  EXPECT_GT(requests_survived([&] { parallel_for(2, 8, work); }), 7);
  done = 0;
  parallel_for(2, 8, work);
  EXPECT_EQ(done, 8);
}

}  // namespace
}  // namespace fokker
