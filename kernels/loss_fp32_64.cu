#include "loss_body.hpp"

template struct fokker::kernels::LossKernel<fokker::Precision::fp32, 64>;
