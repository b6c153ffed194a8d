#include "loss_body.hpp"

template struct fokker::kernels::LossKernel<fokker::Precision::split, 32>;
