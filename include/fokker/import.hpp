#pragma once

#include <string>

#include "fokker/model.hpp"
#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// A model from the tensors of somebody's network (.safetensors: a PyTorch state dict, or Flax parameters with dots in
// their names) and a recipe: one JSON object that says what they make. Its keys:
//   layers         the dense layers in order, by the names of their tensors without .weight: NAME.weight [out, in] or
//                  NAME.kernel [in, out], NAME.bias, or the two parts of torch's weight_norm. Names may leave out what
//                  all tensors' names begin with, where that is not ambiguous. The first may be features of x instead.
//   activation     of the hidden layers: NAME, NAME(PARAMETER), or a list of one for each that has weights
//   output         as --output; output_factor: a number that the outputs are multiplied by; data_deviation, of edm
//   inputs         as --inputs, the order in every layer that takes more than h, which stands where x does; with y the
//                  network takes a condition
//   time           what makes the embedding of the time: features first, if any, then names of dense layers; without it
//                  the network takes the time itself
//   time_activation  of those dense layers, as activation
//   time_into      the layers whose weights have columns for the embedding; without time the first layer
//   time_added_to  the layers to whose sums the embedding is added before their activation: a list of their names, or an
//                  object that names for each the dense layer that the embedding goes through first
//   condition_width  how many numbers a condition has, where inputs have y
//   condition, condition_activation, condition_into, condition_added_to  what makes the embedding of the condition and
//                  where it goes, as those of the time
//   residual       the layers that add their input to their output
//   fixed          the layers that training leaves as they are; features are fixed anyway
//   prefix         what the tensors' names begin with, where there are several networks in the file
//   ignore         tensors that are no part of the network: names, or their beginnings where these end with a dot
//   sde, sde_parameters  the forward SDE and an object of its parameters
//   column_means, column_deviations  lists, where the network was trained on (x − mean)/deviation of each column, those
//                                   of y after those of x (0 and 1 leave one as it is)
// Features are sines and cosines of frequencies f times the time, or times each number of x or of a condition:
//   {"sinusoidal": WIDTH, "period": 10000, "ends": true, "scale": 1, "order": "sin,cos"}   f_k = scale period^(−k/(K − 1)),
//        k < K = WIDTH/2 of each input; with "ends": false period^(−k/K)
//   {"fourier": TENSOR, "scale": 6.283185307179586, "order": "sin,cos"}                    f = scale · the tensor, [K] or
//        [K, inputs]
//   {"frequencies": [1, 2, 4], "scale": 1, "order": "cos,sin"}
// With "sin,cos" all sines stand before all cosines, with "interleaved" each sine before its cosine; of several inputs the
// features of the first come first, but for a tensor [K, inputs].
// The values here are the defaults of the keys that may be left out. Throws Error with one sentence on anything that is not
// there, does not fit or is left over.
Model import_model(const std::string& weights, const std::string& recipe);

}  // namespace fokker
