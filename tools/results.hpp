#pragma once

// What results.json says of all runs together: statistics over seeds, a verdict for each data set, and whether the
// paper's runs show what they have to, beside the published numbers. `runs` are entries of results.json.
#include <cstdint>
#include <string>

#include "options.hpp"

namespace fokker::tools {

// The noise floor is that of two full draws of the truth; with more samples lost than this, a distance is between other
// laws, and its ratio to the floor says nothing.
constexpr double most_escaped = 0.05;

// NaN where it is null.
double number(const Json& value);
// The distances of a gap.json: W2² in the plane, the sliced W2² in other dimensions.
const Json& distances(const Json& gap);

Json without_failed(const Json& runs);
// The seconds that went into the runs, failed ones included, in all calls. What a killed call did after its last save is
// not counted.
double seconds_of(const Json& runs);

// The finished runs of each data set, activation and weight over their seeds: mean, standard deviation (of a sample,
// null of one), least, median and most of each number, null where a seed has none.
Json summarise(const Json& finished);

// The experiment's statement for each data set and activation of a summary, {data, activation, text}: does the gap, in
// the mean over seeds, at the weight nearest 1 fall by more than the noise floor? `samples`: of each run.
Json verdicts(const Json& summary, std::int64_t samples);

// W2² between the histograms that the paper's authors published (network simplex), and mean R² of their checkpoints;
// null where they published none.
Json published(const std::string& data, double weight);

// What the medians over seeds of the paper's runs have to show, as a list of {data, criterion, outcome, numbers}; an
// outcome is "met", "not met" or "not evaluated". On each data set the gap falls by more than the noise floor from
// w_R = 0 to 0.1 and from 0.1 to 10. Each ODE–SDE and ODE–truth is within a factor 2 of the published, over three seeds
// or more. SDE–truth rises with w_R as the published does, where neighbours may tie within the noise floor. Distances of
// runs that lost many samples are not evaluated.
Json acceptance(const Json& summary);

}  // namespace fokker::tools
