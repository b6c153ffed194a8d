// usage: gpu_application MODEL COUNT
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <fokker/fokker.hpp>

static void check(cudaError_t error) {
  if (error != cudaSuccess) throw fokker::Error(cudaGetErrorString(error));
}

int main(int count, char** arguments) try {
  if (count != 3) throw fokker::Error("two arguments are needed, MODEL and COUNT");
  const std::int64_t n = std::atoll(arguments[2]);
  cudaStream_t stream;  // the application's own stream and memory
  float *samples, first[2];
  check(cudaStreamCreate(&stream));
  check(cudaMalloc(reinterpret_cast<void**>(&samples), n * sizeof first));

  const fokker::Context context({.backend = fokker::BackendKind::cuda, .stream = stream});
  const fokker::Model model = fokker::load_model(arguments[1]);
  const fokker::Sampler sampler(context, model, fokker::TimeGrid::geometric(model.sde.horizon(), 1e-3, 150));

  cudaGraph_t graph;  // all paths from the prior to the data, to be launched as often as needed
  cudaGraphExec_t paths;
  const fokker::View view(samples, n, 2, fokker::Device::cuda);
  const fokker::SampleOptions options{.scheme = fokker::Scheme::heun, .seed = 1};
  sampler.sample(view, options);  // a network that is not resident loads its kernels in a first call
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  sampler.sample(view, options);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&paths, graph, 0));
  check(cudaGraphLaunch(paths, stream));  // asynchronous

  check(cudaMemcpyAsync(first, samples, sizeof first, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  std::printf("sample 0: %.6f %.6f\n", first[0], first[1]);
} catch (const fokker::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
