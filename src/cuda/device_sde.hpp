#pragma once

// A forward SDE as launches take it. Whoever launches holds one; kernels get a copy of its formulas.
#include "cuda/runtime.hpp"
#include "fokker/sde.hpp"

namespace fokker::cuda {

class DeviceSde {
 public:
  // At set-up: a table goes to the current device here.
  explicit DeviceSde(const ForwardSde& sde) : formulas_(sde.formulas()) {
    if (formulas_.kind != SdeKind::ddpm) return;
    DdpmSde& ddpm = formulas_.ddpm;
    table_ = upload(ddpm.table, static_cast<std::size_t>(ddpm.steps) * sizeof(DdpmSde::Step));
    ddpm.table = table_.as<const DdpmSde::Step>();
  }

  // With pointers to the device, valid while this lives.
  const SdeFormulas& formulas() const { return formulas_; }

 private:
  DeviceMemory table_;
  SdeFormulas formulas_;
};

}  // namespace fokker::cuda
