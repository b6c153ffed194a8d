#pragma once

namespace fokker::bench {

// The most that all threads together do in fused multiply-adds on float vectors held in registers, in GFLOP/s: two a
// lane and instruction, by the widest instruction set that Highway dispatches to here. Takes about a third of a second.
double fma_peak_gflops(int threads);

}  // namespace fokker::bench
