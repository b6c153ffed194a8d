#pragma once

namespace fokker {

// How the CUDA backend multiplies the matrices of hidden layers in float; everything else, and the CPU, works in float
// whatever is chosen. fp32: fused multiply-adds. split: each operand as the sum of two fp16 numbers, scaled by powers
// of two so that no range is left, three products on tensor cores; errors about twice those of fp32, four times beyond
// width 80. half: one product of fp16 numbers, relative errors of 1e-3; for values and scores only, and used only where
// it is asked for.
enum class Precision { split, fp32, half };

}  // namespace fokker
