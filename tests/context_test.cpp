#include "fokker/context.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <numeric>
#include <regex>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "c/tensors.hpp"
#include "core/processors.hpp"
#include "cuda/status.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/loss.hpp"
#include "fokker/sampler.hpp"
#include "fokker/version.hpp"
#include "fokker/view.hpp"
#include "scratch.hpp"

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
  EXPECT_EQ(cpu.precision(), Precision::fp32);
  cpu.synchronize();

  const Context automatic;
  EXPECT_GE(automatic.threads(), 1);
  const BackendStatus cuda = backend_status()[1];
  EXPECT_EQ(automatic.backend_name(), cuda.available ? "cuda" : "cpu");
  EXPECT_EQ(automatic.device(), cuda.available ? Device::cuda : Device::cpu);
  EXPECT_EQ(automatic.precision(), cuda.available ? Precision::split : Precision::fp32);
  EXPECT_EQ(automatic.note(), "backend " + automatic.backend_name() + ": " + cuda.detail);
}

// A hierarchy of version 2 with a quota in a parent, one of version 1, and none.
TEST(Processors, AreAsManyAsControlGroupsAllow) {
  const testing::Scratch scratch;
  const auto put = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(scratch / path).parent_path());
    testing::put(scratch / path, text);
  };
  const auto quota = [&](const std::string& self) {
    put("self", self);
    return processor_quota(scratch / "root", scratch / "self");
  };
  put("root/job/cpu.max", "250000 100000\n");
  put("root/job/step/cpu.max", "max 100000\n");
  put("root/cpu/job/cpu.cfs_quota_us", "50000\n");
  put("root/cpu/job/cpu.cfs_period_us", "100000\n");
  put("root/cpu/free/cpu.cfs_quota_us", "-1\n");
  put("root/cpu/free/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("0::/job/step\n"), 3);
  EXPECT_EQ(quota("0::/job\n"), 3);
  EXPECT_EQ(quota("2:cpuset:/job\n1:cpu,cpuacct:/job\n0::/job\n"), 1);
  EXPECT_EQ(quota("1:cpu:/free\n0::/\n"), std::numeric_limits<int>::max());
  EXPECT_EQ(quota("0::/absent\n"), std::numeric_limits<int>::max());
  EXPECT_EQ(quota("nonsense"), std::numeric_limits<int>::max());
  EXPECT_EQ(processor_quota(scratch / "absent", scratch / "absent"), std::numeric_limits<int>::max());
  EXPECT_GE(available_processors(), 1);
  EXPECT_LE(Context(BackendKind::cpu).threads(), available_processors());
}

TEST(Context, PrecisionNames) {
  for (const Precision precision : {Precision::split, Precision::fp32, Precision::half}) {
    EXPECT_EQ(parse_precision(to_string(precision)), precision);
  }
  EXPECT_EQ(to_string(Precision::half), "half");
  try {
    parse_precision("bf16");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "unknown precision 'bf16': allowed are split, fp32, half");
  }
}

// Nothing on the CPU is in device memory, and there is a plan of kernels exactly where the build has them.
TEST(Context, DeviceMemoryAndKernelsOfAModel) {
  const Context cpu({.backend = BackendKind::cpu});
  const Model mixture{ForwardSde{}, GaussianMixture::isotropic(1, {1.0}, {0.0}, {1.0})};
  EXPECT_EQ(Fields<float>(cpu, mixture).workspace_bytes(), 0u);
  EXPECT_EQ(Fields<double>(cpu, mixture).workspace_bytes(), 0u);
  EXPECT_EQ(Loss<float>(cpu, {}, {}).workspace_bytes(), 0u);
  EXPECT_EQ(Loss<double>(cpu, {}, {}).workspace_bytes(), 0u);
  EXPECT_EQ(Sampler(cpu, mixture, TimeGrid::uniform(10, 0, 3)).workspace_bytes(), 0u);

  const bool built = backend_status()[1].detail.find("this build has no CUDA") == std::string::npos;
  Architecture paper, wide;
  wide.hidden = {80, 4096};
  for (const Precision precision : {Precision::split, Precision::fp32, Precision::half}) {
    const auto small = kernel_plans({ForwardSde{}, Mlp::initialise(paper, 1)}, precision);
    const auto large = kernel_plans({ForwardSde{}, Mlp::initialise(wide, 1)}, precision);
    EXPECT_EQ(small.empty(), !built);
    EXPECT_EQ(large.size(), small.size());
    EXPECT_EQ(kernel_plans(mixture, precision).size(), small.size());
    for (const KernelPlan& plan : small) {
      EXPECT_NE(plan.device, "");
      // The paper's network was made to fit: a warp at least, whatever the precision.
      EXPECT_TRUE(std::regex_search(plan.detail, std::regex("score resident with [1-9][0-9]* warps? a block")))
          << plan.detail;
      EXPECT_EQ(plan.detail.find("residual") == std::string::npos, precision == Precision::half) << plan.detail;
    }
    for (const KernelPlan& plan : large) EXPECT_EQ(plan.detail, "all wide");
  }
}

class CudaContext : public testing::GpuTest {};

TEST_F(CudaContext, IsWhatWasAskedFor) {
  const Context cuda({.backend = BackendKind::cuda, .precision = Precision::fp32});
  EXPECT_EQ(cuda.backend_name(), "cuda");
  EXPECT_EQ(cuda.note(), "");
  EXPECT_EQ(cuda.precision(), Precision::fp32);
  EXPECT_GE(cuda.threads(), 1);
  cuda.synchronize();
}

TEST(Context, BackendNames) {
  EXPECT_EQ(parse_backend("auto"), BackendKind::automatic);
  EXPECT_EQ(parse_backend("cpu"), BackendKind::cpu);
  EXPECT_EQ(parse_backend("cuda"), BackendKind::cuda);
  EXPECT_EQ(to_string(BackendKind::automatic), "auto");
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
  const auto expect = [](const cuda::DeviceQuery& query, const std::string& reason) {
    EXPECT_EQ(cuda::why_not(query), reason);
    EXPECT_EQ(cuda::describe(query), reason);
  };
  cuda::DeviceQuery query;
  query.missing = "it was configured with FOKKER_CUDA=OFF";
  expect(query, "this build has no CUDA: it was configured with FOKKER_CUDA=OFF");

  query = {.runtime = 13000};
  expect(query, "no NVIDIA driver is installed");
  query.driver = 12020;
  expect(query, "the NVIDIA driver supports CUDA 12.2, and this build needs 13.0 or newer");
  query.driver = 11000;
  query.failure = "CUDA driver version is insufficient for CUDA runtime version";  // of which this is the reason
  expect(query, "the NVIDIA driver supports CUDA 11.0, and this build needs 13.0 or newer");
  query.driver = 13000;
  query.failure.clear();
  expect(query, "the NVIDIA driver finds no GPU");
  query.failure = "system not yet initialized";
  expect(query, "CUDA could not be started: system not yet initialized");
  query.failure.clear();

  query.devices = {{.name = "NVIDIA T4", .major = 7, .minor = 5, .memory_gib = 15},
                   {.name = "NVIDIA A10", .major = 8, .minor = 6, .memory_gib = 24}};
  query.has_code = false;  // nor has the T4: that it is too old is what helps
  expect(query, "NVIDIA T4 has compute capability 7.5, and 8.0 or newer is needed");
  query.device = 1;
  expect(query,
         "this build holds no code for NVIDIA A10 (compute capability 8.6); configure it with "
         "-DFOKKER_CUDA_ARCHITECTURES=86");
  for (const int gpu : {2, -2}) {
    query.device = gpu;
    expect(query, fmt::format("GPU {} was asked for, and allowed here are 0 to 1, or -1 for the current one", gpu));
  }
}

TEST(CudaStatus, DevicesAndVersionsWhereThereIsNoReason) {
  cuda::DeviceQuery query{.driver = 13010, .runtime = 13000};
  query.devices = {{.name = "NVIDIA H100", .major = 9, .minor = 0, .memory_gib = 79.6}};
  EXPECT_EQ(cuda::why_not(query), "");
  EXPECT_EQ(cuda::describe(query), "NVIDIA H100 (compute capability 9.0, 80 GiB); driver for CUDA 13.1, runtime 13.0");
  // An older driver of the same major version will do, and so does a card that is newer than any of the code.
  query.driver = 13000;
  query.runtime = 13020;
  query.devices.push_back({.name = "NVIDIA B300", .major = 10, .minor = 3, .memory_gib = 268});
  query.device = 1;
  EXPECT_EQ(cuda::why_not(query), "");
  EXPECT_EQ(cuda::describe(query),
            "NVIDIA H100 (compute capability 9.0, 80 GiB), NVIDIA B300 (compute capability 10.3, 268 GiB); device 1 is "
            "taken; driver for CUDA 13.0, runtime 13.2");
}

// As a caller of the C API may hand it in: the machine of the test need not have two.
TEST(CApi, ATensorOfAnotherGpuIsRefused) {
  float number = 0;
  std::int64_t rows = 1;
  DLTensor tensor{};
  tensor.data = &number, tensor.device = {kDLCUDA, 1}, tensor.ndim = 1, tensor.dtype = {kDLFloat, 32, 1};
  tensor.shape = &rows;
  EXPECT_EQ(testing::message_of([&] { view_of<float>(&tensor, "samples", 0); }),
            "samples is on GPU 1; allowed here: GPU 0, the context's");
  EXPECT_EQ(view_of<float>(&tensor, "samples", 1).data, &number);
  EXPECT_EQ(view_of<float>(&tensor, "samples").device, Device::cuda);
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
  EXPECT_THAT(refusal(View<const T>(from.data(), 3, -2), View<T>(to.data(), 3, -2)),
              HasSubstr("[3, -2]; allowed: sizes of 0 or more"));
}

}  // namespace
}  // namespace fokker
