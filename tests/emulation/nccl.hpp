#pragma once

// What tests ask of the stand-in for NCCL (nccl.cpp).

// Whether the library is there for this process from here on; returns whether it was. At its start it is, unless the
// environment has FOKKER_EMULATION_WITHOUT_NCCL.
bool emulate_nccl(bool there);
