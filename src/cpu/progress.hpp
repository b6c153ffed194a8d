#pragma once

#include <cstdint>
#include <mutex>

#include "fokker/sampler.hpp"

namespace fokker::cpu {

constexpr std::int64_t most_reports = 200;

// Calls `report` a bounded number of times, from one thread at a time.
class Progress {
 public:
  Progress(const PointsFinished& report, std::int64_t all) : report_(report), all_(all) {}
  void finished(std::int64_t points) {
    if (!report_) return;
    const std::lock_guard lock(mutex_);
    done_ += points;
    if (done_ == all_ || done_ - reported_ > all_ / most_reports) report_(reported_ = done_, all_);
  }

 private:
  const PointsFinished& report_;
  const std::int64_t all_;
  std::mutex mutex_;
  std::int64_t done_ = 0, reported_ = 0;
};

}  // namespace fokker::cpu
