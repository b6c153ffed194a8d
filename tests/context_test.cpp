#include "fokker/context.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/status.hpp"
#include "fokker/error.hpp"
#include "fokker/version.hpp"
#include "fokker/view.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

std::string message_of(const ContextOptions& options) {
  try {
    Context context(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Context, CpuIsExplicitAndAutomaticSaysWhy) {
  ContextOptions options;
  options.backend = BackendKind::cpu;
  options.threads = 2;
  const Context cpu(options);
  EXPECT_EQ(cpu.backend_name(), "cpu");
  EXPECT_EQ(cpu.threads(), 2);
  EXPECT_EQ(cpu.device(), Device::cpu);
  EXPECT_EQ(cpu.note(), "");

  const Context automatic;
  EXPECT_GE(automatic.threads(), 1);
  if (automatic.backend_name() == "cpu") {
    EXPECT_THAT(automatic.note(), HasSubstr("CUDA"));
  }
}

TEST(Context, BackendNames) {
  EXPECT_EQ(parse_backend("auto"), BackendKind::automatic);
  EXPECT_EQ(parse_backend("cpu"), BackendKind::cpu);
  EXPECT_EQ(parse_backend("cuda"), BackendKind::cuda);
  EXPECT_THROW(parse_backend("gpu"), Error);
  EXPECT_THROW(parse_backend(""), Error);
}

TEST(Context, RefusesWithOneSentence) {
  ContextOptions options;
  options.threads = -1;
  EXPECT_THAT(message_of(options), AllOf(HasSubstr("-1 threads"), HasSubstr("allowed")));
  options.threads = std::numeric_limits<int>::max();
  EXPECT_THAT(message_of(options), HasSubstr("allowed"));

  options = {};
  options.backend = BackendKind::cuda;
  bool available = false;
  for (const BackendStatus& status : backend_status()) available |= status.name == "cuda" && status.available;
  if (available) {
    EXPECT_EQ(message_of(options), "");
  } else {
    EXPECT_THAT(message_of(options),
                AllOf(HasSubstr("'cuda' is not available"), HasSubstr("auto, cpu"), Not(HasSubstr("\n"))));
  }
}

TEST(Context, StatusNamesEachBackendOnce) {
  const auto status = backend_status();
  ASSERT_EQ(status.size(), 2u);
  EXPECT_EQ(status[0].name, "cpu");
  EXPECT_TRUE(status[0].available);
  EXPECT_THAT(status[0].detail, MatchesRegex(".+, [0-9]+ threads?"));
  EXPECT_EQ(status[1].name, "cuda");
  EXPECT_NE(status[1].detail, "");
  EXPECT_THAT(version(), MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
}

// What a machine without each of these things is told; the query itself needs the machine.
TEST(CudaStatus, EachReasonHasItsSentence) {
  cuda::DeviceQuery query;
  query.runtime = 13000;
  EXPECT_EQ(cuda::describe(query), "no NVIDIA driver is installed");
  query.driver = 12020;
  EXPECT_EQ(cuda::describe(query), "the NVIDIA driver supports CUDA 12.2, and this build needs 13.0 or newer");
  query.driver = 13000;
  EXPECT_EQ(cuda::describe(query), "the NVIDIA driver finds no GPU");
  query.failure = "system not yet initialized";
  EXPECT_EQ(cuda::describe(query), "CUDA could not be started: system not yet initialized");
  query.failure.clear();
  query.devices = {{"NVIDIA H100", 9, 0, 79.6}, {"NVIDIA A100", 8, 0, 39.4}};
  EXPECT_EQ(cuda::describe(query),
            "NVIDIA H100 (compute capability 9.0, 80 GiB), NVIDIA A100 (compute capability 8.0, 39 GiB), "
            "driver for CUDA 13.0, runtime 13.0");
}

TEST(Buffer, AlignedZeroedAndChecked) {
  const Context context;
  for (const std::int64_t rows : {0, 1, 19, 99, 989}) {
    const Buffer<float> buffer(context, rows, 7);
    EXPECT_EQ(buffer.rows(), rows);
    EXPECT_EQ(buffer.size(), rows * 7);
    if (context.device() != Device::cpu) continue;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
    for (std::int64_t i = 0; i < buffer.size(); ++i) ASSERT_EQ(buffer.data()[i], 0.0f) << i;
  }
  EXPECT_THROW(Buffer<float>(context, -1), Error);
  EXPECT_THROW(Buffer<float>(context, 1, -1), Error);
  EXPECT_THROW(Buffer<double>(context, std::int64_t{1} << 40, std::int64_t{1} << 40), Error);
}

template <class T>
class Copies : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Copies, Precisions);

TYPED_TEST(Copies, GoToTheDeviceAndBack) {
  using T = TypeParam;
  const Context context;
  for (const std::int64_t rows : {0, 1, 19, 99, 989}) {
    std::vector<T> out(7 * rows), back(7 * rows, T(-1));
    std::iota(out.begin(), out.end(), T(1));
    Buffer<T> there(context, rows, 7), elsewhere(context, rows, 7);
    copy(context, View<const T>(out, 7), there.view());
    copy(context, there.view(), elsewhere.view());
    copy(context, elsewhere.view(), View<T>(back, 7));
    context.synchronize();
    EXPECT_EQ(back, out) << rows;
  }
  copy(context, {}, View<T>());  // nothing, from nowhere
}

TYPED_TEST(Copies, RefuseWhatDoesNotFit) {
  using T = TypeParam;
  const Context cpu({.backend = BackendKind::cpu});
  std::vector<T> from(6, T(1)), to(6, T(2));
  const View<const T> source(from, 2);
  const View<T> target(to, 2);
  const auto refusal = [&](View<const T> a, View<T> b) -> std::string {
    try {
      copy(cpu, a, b);
    } catch (const Error& error) {
      EXPECT_EQ(to, std::vector<T>(6, T(2)));
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(source, View<T>(to)),
            "a copy from shape [3, 2] to shape [6, 1] asked for; allowed: two views of one shape");
  EXPECT_THAT(refusal(source, View<T>(to.data(), 2, 2)), AllOf(HasSubstr("[3, 2]"), HasSubstr("[2, 2]")));
  EXPECT_THAT(refusal(source, {}), AllOf(HasSubstr("[3, 2]"), HasSubstr("[0, 1]")));
  EXPECT_EQ(refusal(View<const T>(from.data(), 3, 2, Device::cuda), target),
            "the source of a copy is on device cuda; allowed here: cpu, where the context is");
  EXPECT_THAT(refusal(source, View<T>(to.data(), 3, 2, Device::cuda)),
              HasSubstr("the target of a copy is on device cuda"));
  EXPECT_THAT(refusal(View<const T>(nullptr, 3, 2), target),
              HasSubstr("the source of a copy of shape [3, 2] has no data"));
  EXPECT_THAT(refusal(source, View<T>(nullptr, 3, 2)), HasSubstr("no data"));
  EXPECT_THAT(refusal(View<const T>(from.data(), -3, 2), View<T>(to.data(), -3, 2)), HasSubstr("[-3, 2]"));
  EXPECT_THAT(refusal(View<const T>(from.data(), 3, -2), View<T>(to.data(), 3, -2)), HasSubstr("-2 columns"));
}

}  // namespace
}  // namespace fokker
