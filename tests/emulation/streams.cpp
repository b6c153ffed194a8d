#include "streams.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

namespace fokker::emulated {
namespace {

using Stream = std::shared_ptr<CUstream_st>;

EmulatedStreams mode_of_environment() {
  const char* const name = std::getenv("FOKKER_EMULATION_STREAMS");
  const std::string_view given = name != nullptr                                   ? name
                                 : std::getenv("FOKKER_EMULATION_SEED") != nullptr ? "random"
                                                                                   : "lazy";
  if (given == "eager") return EmulatedStreams::eager;
  if (given == "lazy") return EmulatedStreams::lazy;
  if (given == "random") return EmulatedStreams::random;
  fail("FOKKER_EMULATION_STREAMS is none of eager, lazy and random");
}

std::uint64_t seed_of_environment() {
  const char* const seed = std::getenv("FOKKER_EMULATION_SEED");
  return seed != nullptr ? std::strtoull(seed, nullptr, 0) : 1;
}

struct Devices {
  std::mutex mutex;
  std::condition_variable done;  // a piece of work
  EmulatedStreams mode = mode_of_environment();
  std::uint64_t random = seed_of_environment();
  Number last = 0;  // that was queued
  std::map<int, Stream> default_streams{{0, std::make_shared<CUstream_st>()}};
  std::vector<Stream> streams{default_streams.at(0)};
  cudaError_t error = cudaSuccess;
  std::size_t kernels = 0;
};

Devices& devices() {
  static Devices& instance = *new Devices;  // never destroyed: a static context frees its memory after main()
  return instance;
}

// The fibers of a host thread end with it. The main thread's end before static contexts release what they have: what
// is queued then is done no more.
thread_local constinit bool thread_has_ended = false;
struct EndOfThread {
  ~EndOfThread() { thread_has_ended = true; }
};

thread_local int current = 0;

CUstream_st& default_stream(int device) {
  Stream& stream = devices().default_streams[device];
  if (stream == nullptr) {
    stream = std::make_shared<CUstream_st>();
    stream->device = device;
    devices().streams.push_back(stream);
  }
  return *stream;
}

CUstream_st& of(cudaStream_t stream) { return stream != nullptr ? *stream : default_stream(current); }

bool overlap(const HostRange& a, const HostRange& b) {
  return a.bytes > 0 && b.bytes > 0 && a.begin < b.begin + b.bytes && b.begin < a.begin + a.bytes;
}

template <class Condition>
bool any_queued(const Condition& condition) {
  for (const Stream& stream : devices().streams) {
    if (std::any_of(stream->queue.begin(), stream->queue.end(),
                    [&](const Item& item) { return condition(item.node); })) {
      return true;
    }
  }
  return false;
}

// Whether to wait for what is not ready.
enum class Patience { waits, goes_on };
constexpr auto longest_wait = std::chrono::minutes(2);

// These return false where something is not ready and there is no patience for it.
bool finish(std::unique_lock<std::mutex>& lock, CUstream_st& stream, Number last, Patience patience);

bool finish_what_comes_before(std::unique_lock<std::mutex>& lock, CUstream_st& stream, const Item& item,
                              Patience patience) {
  if (item.after != nullptr && !finish(lock, *item.after->stream, item.after->number, patience)) return false;
  if (!stream.blocking) return true;
  CUstream_st& by_default = default_stream(stream.device);
  if (&stream != &by_default) return finish(lock, by_default, item.number - 1, patience);
  for (const Stream& other : std::vector(devices().streams)) {
    if (!other->blocking || other.get() == &stream || other->device != stream.device) continue;
    if (!finish(lock, *other, item.number - 1, patience)) return false;
  }
  return true;
}

bool finish(std::unique_lock<std::mutex>& lock, CUstream_st& stream, Number last, Patience patience) {
  static thread_local const EndOfThread end_of_thread;
  Devices& d = devices();
  const Stream kept = stream.shared_from_this();
  while (!stream.queue.empty() && stream.queue.front().number <= last) {
    if (stream.busy) {
      d.done.wait(lock);
      continue;
    }
    stream.busy = true;
    const Item& item = stream.queue.front();  // stays in its place while others are queued behind it
    bool ready = finish_what_comes_before(lock, stream, item, patience);
    if (ready && d.error == cudaSuccess && !thread_has_ended) {
      lock.unlock();
      if (!item.read.empty() && std::memcmp(item.node.reads.begin, item.read.data(), item.read.size()) != 0) {
        fail("host memory changed before queued work had read it");
      }
      auto error = static_cast<cudaError_t>(item.node.work());
      const auto begin = std::chrono::steady_clock::now();
      while (error == cudaErrorNotReady && patience == Patience::waits) {
        if (std::chrono::steady_clock::now() - begin > longest_wait)
          fail("work has waited for another device too long");
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        error = static_cast<cudaError_t>(item.node.work());
      }
      lock.lock();
      ready = error != cudaErrorNotReady;
      if (ready && d.error == cudaSuccess) d.error = error;
    }
    if (ready) stream.queue.pop_front();
    stream.busy = false;
    d.done.notify_all();
    if (!ready) return false;
  }
  return true;
}

}  // namespace

void fail(const char* sentence) {
  std::fprintf(stderr, "emulated CUDA runtime: %s\n", sentence);
  std::abort();
}

Call::Call() : lock_(devices().mutex) {
  if (mode() == EmulatedStreams::random && choose(2) == 0) advance();
}

EmulatedStreams Call::mode() const { return devices().mode; }
cudaError_t Call::error() const { return devices().error; }

std::size_t Call::choose(std::size_t n) {
  std::uint64_t z = devices().random += 0x9E3779B97F4A7C15u;  // splitmix64
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return static_cast<std::size_t>((z ^ z >> 31) % n);
}

// Some of the work of some stream that has any.
void Call::advance() {
  std::vector<CUstream_st*> ready;
  for (const Stream& stream : devices().streams) {
    if (!stream->queue.empty() && !stream->busy && stream->device == current) ready.push_back(stream.get());
  }
  if (ready.empty()) return;
  CUstream_st& stream = *ready[choose(ready.size())];
  emulated::finish(lock_, stream, stream.queue[choose(stream.queue.size())].number, Patience::goes_on);
}

void Call::prune() {
  std::erase_if(devices().streams, [](const Stream& stream) { return stream->destroyed && stream->queue.empty(); });
}

Number Call::queue(cudaStream_t stream, Node node, std::shared_ptr<const Place> after) {
  Devices& d = devices();
  Item item{++d.last, std::move(node), {}, std::move(after)};
  const HostRange &reads = item.node.reads, &writes = item.node.writes;
  // Queued work that writes what this reads, or uses what this writes, is before it in its stream, or so it should be.
  if (reads.bytes > 0 && !any_queued([&](const Node& other) { return overlap(reads, other.writes); })) {
    item.read.assign(reads.begin, reads.begin + reads.bytes);
  }
  if (writes.bytes > 0 && !uses(writes)) std::memset(writes.begin, 0xFF, writes.bytes);
  d.kernels += item.node.kernel;
  of(stream).queue.push_back(std::move(item));
  const Number number = d.last;
  if (d.mode == EmulatedStreams::eager) finish(stream, number);
  return number;
}

void Call::finish(cudaStream_t stream, Number last) { emulated::finish(lock_, of(stream), last, Patience::waits); }

void Call::advance_to(const Place& place) { emulated::finish(lock_, *place.stream, place.number, Patience::goes_on); }

void Call::finish_all() {
  Devices& d = devices();
  const Number last = d.last;
  const auto left = [&](const Stream& stream) {
    return stream->device == current && !stream->queue.empty() && stream->queue.front().number <= last;
  };
  for (;;) {
    std::vector<Stream> with_work;
    std::copy_if(d.streams.begin(), d.streams.end(), std::back_inserter(with_work), left);
    if (with_work.empty()) break;
    CUstream_st& stream = *with_work[choose(with_work.size())];
    emulated::finish(lock_, stream, std::min(last, stream.queue[choose(stream.queue.size())].number), Patience::waits);
  }
  prune();
}

std::shared_ptr<const Place> Call::mark(cudaStream_t stream) {
  auto place = std::make_shared<Place>(Place{of(stream).shared_from_this(), devices().last + 1});
  queue(stream, {[] { return cudaSuccess; }});
  return place;
}

bool Call::reached(const Place& place) const {
  const auto& queue = place.stream->queue;
  return queue.empty() || queue.front().number > place.number;
}

bool Call::uses(const HostRange& memory) const {
  return any_queued([&](const Node& node) { return overlap(memory, node.reads) || overlap(memory, node.writes); });
}

cudaStream_t Call::add_stream(bool blocking) {
  auto stream = std::make_shared<CUstream_st>();
  stream->blocking = blocking;
  stream->device = current;
  return devices().streams.emplace_back(std::move(stream)).get();
}

void Call::remove_stream(cudaStream_t stream) {
  stream->destroyed = true;
  prune();
}

int current_device() { return current; }
void set_current_device(int device) { current = device; }

EmulatedStreams set_mode(EmulatedStreams mode, std::uint64_t seed) {
  Call call;
  std::set<int> with_streams;
  for (const Stream& stream : devices().streams) with_streams.insert(stream->device);
  const int before = current;
  for (const int device : with_streams) {
    current = device;
    call.finish_all();
  }
  current = before;
  devices().random = seed;
  return std::exchange(devices().mode, mode);
}

std::size_t queued_kernels() {
  const std::scoped_lock lock(devices().mutex);
  return devices().kernels;
}

}  // namespace fokker::emulated
