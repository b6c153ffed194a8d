// usage: gpu_application MODEL COUNT
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <fokker/fokker.hpp>
#include <vector>

static void check(cudaError_t error) {
  if (error != cudaSuccess) throw fokker::Error(cudaGetErrorString(error));
}

int main(int, char** arguments) try {
  const std::int64_t n = std::atoll(arguments[2]);
  cudaStream_t stream;  // the application's own stream and memory
  check(cudaStreamCreate(&stream));
  float* samples;
  check(cudaMalloc(reinterpret_cast<void**>(&samples), n * 2 * sizeof(float)));

  const fokker::Context context({.backend = fokker::BackendKind::cuda, .stream = stream});
  const fokker::Model model = fokker::load_model(arguments[1]);
  const fokker::Sampler sampler(context, model, fokker::TimeGrid::geometric(model.sde.horizon(), 1e-3, 150));

  cudaGraph_t graph;  // the whole path from the prior to the data, to be launched as often as needed
  cudaGraphExec_t path;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  sampler.sample({samples, n, 2, fokker::Device::cuda}, {.scheme = fokker::Scheme::heun, .seed = 1});
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&path, graph, 0));
  check(cudaGraphLaunch(path, stream));  // asynchronous; the next kernel of the application may read the samples

  std::vector<float> host(2);
  check(cudaMemcpyAsync(host.data(), samples, 2 * sizeof(float), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  std::printf("sample 0 of seed 1: %.6f %.6f\n", host[0], host[1]);
} catch (const fokker::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
