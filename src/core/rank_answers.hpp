#pragma once

// Whether the ranks of a training go on, which they do together or not at all.
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "fokker/ranks.hpp"

namespace fokker {

// A rank's word: `failed` where its sink threw, and `leaves` where it cannot take part in what all have begun, so that no
// further answer of it comes. `next` is what the first rank proposes to all.
struct RankAnswer {
  enum Word : std::int64_t { goes_on, stops, failed, leaves } word;
  std::int64_t next;
};
static_assert(std::has_unique_object_representations_v<RankAnswer>);

// What all of them said: all ranks call it.
struct RankAnswers {
  bool go_on;         // all
  bool left;          // whether one leaves
  int failed_rank;    // the first that failed or leaves; −1: none
  int size;           // number of ranks
  std::int64_t next;  // that of the first

  OtherRankFailed failure() const {
    return OtherRankFailed(fmt::format("the training has ended since rank {} of {} failed", failed_rank, size));
  }
};
inline RankAnswers answers_of_all(Ranks& ranks, const RankAnswer& own) {
  std::vector<RankAnswer> all(static_cast<std::size_t>(ranks.size()));
  if (ranks.size() == 1) {
    all.front() = own;
  } else {
    ranks.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  }
  const auto with = [&](RankAnswer::Word word) {
    return std::find_if(all.begin(), all.end(), [&](const RankAnswer& answer) { return answer.word == word; });
  };
  const auto failed =
      std::find_if(all.begin(), all.end(), [](const RankAnswer& answer) { return answer.word >= RankAnswer::failed; });
  return {.go_on = failed == all.end() && with(RankAnswer::stops) == all.end(),
          .left = with(RankAnswer::leaves) != all.end(),
          .failed_rank = failed == all.end() ? -1 : static_cast<int>(failed - all.begin()),
          .size = ranks.size(),
          .next = all.front().next};
}

}  // namespace fokker
