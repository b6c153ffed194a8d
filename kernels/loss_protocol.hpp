#pragma once

// Whether the sweeps of a resident loss keep to their protocol (the table in loss_sweeps.hpp): what the tile and
// `layer` hold as a sweep begins, and that every plane which is read was written for these samples. Compiled by nvcc it
// is nothing; on the emulation each lane has its own, and a violation is one sentence and the end of the process.
#include "device.hpp"
#include "loss_layout.hpp"

#ifdef FOKKER_EMULATION
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#endif

namespace fokker::kernels {

// What the tile holds between two sweeps, in the symbols of src/operations/LOSS_GRADIENT.md, and whose code and P
// `layer` holds.
enum class TileHolds { anything, z_last, h_last, delta_first, tangent_last, zeta_last };
enum class LayerHolds { anything, first, last };

#ifdef FOKKER_EMULATION

class LossProtocol {
 public:
  // Other samples: no plane holds anything of theirs.
  void begin(int hidden) {
    hidden_ = hidden;
    parts_.assign(static_cast<std::size_t>(hidden * static_cast<int>(LossPlane::count)), nothing);
    leave(TileHolds::anything, LayerHolds::anything);
  }

  void enter(const char* sweep, TileHolds tile, LayerHolds layer) {
    sweep_ = sweep;
    if (tile != TileHolds::anything && tile != tile_) {
      fail(std::string("needs ") + name(tile) + " in the tile, which holds " + name(tile_));
    }
    const bool same = layer == layer_ || (hidden_ == 1 && layer_ != LayerHolds::anything);
    if (layer != LayerHolds::anything && !same) {
      fail(std::string("needs ") + name(layer) + " in `layer`, which holds " + name(layer_));
    }
  }
  void leave(TileHolds tile, LayerHolds layer) {
    tile_ = tile;
    layer_ = layer;
  }

  // `part` tells apart what a plane holds at different times: LossPlane::reverse 0 for P and 1 for S, squares and
  // source the number of axes that they are summed over, tangent the axis.
  void write(LossPlane plane, int l, int part) { held(plane, l) = part; }
  void read(LossPlane plane, int l, int part) {
    const int is = held(plane, l);
    if (is == part) return;
    fail("reads part " + std::to_string(part) + " of plane " + name(plane) + " of layer " + std::to_string(l) +
         ", which holds " + (is == nothing ? "nothing" : "part " + std::to_string(is)));
  }

 private:
  static constexpr int nothing = -1;

  static const char* name(TileHolds tile) {
    constexpr const char* names[] = {"anything",
                                     "z of the last layer",
                                     "h of the last layer",
                                     "δ of the first layer",
                                     "ż of the last layer",
                                     "ζ of the last layer"};
    return names[static_cast<int>(tile)];
  }
  static const char* name(LayerHolds layer) {
    constexpr const char* names[] = {"anything", "the first layer", "the last layer"};
    return names[static_cast<int>(layer)];
  }
  static const char* name(LossPlane plane) {
    constexpr const char* names[] = {"code", "reverse", "squares", "source", "tangent"};
    return names[static_cast<int>(plane)];
  }

  int& held(LossPlane plane, int l) {
    const LossPlaneLayers layers = layers_of(plane);
    if (l < layers.lowest || l >= hidden_ - layers.without) {
      fail(std::string("takes plane ") + name(plane) + " of layer " + std::to_string(l) + " of " +
           std::to_string(hidden_) + ", which has none");
    }
    return parts_[static_cast<std::size_t>(l * static_cast<int>(LossPlane::count) + static_cast<int>(plane))];
  }
  [[noreturn]] void fail(const std::string& what) const {
    std::fprintf(stderr, "loss protocol: the sweep %s %s\n", sweep_, what.c_str());
    std::abort();
  }

  const char* sweep_ = "before the first";
  int hidden_ = 0;
  TileHolds tile_ = TileHolds::anything;
  LayerHolds layer_ = LayerHolds::anything;
  std::vector<int> parts_;  // [hidden, LossPlane::count]
};

#else

class LossProtocol {
 public:
  __device__ __forceinline__ void begin(int) {}
  __device__ __forceinline__ void enter(const char*, TileHolds, LayerHolds) {}
  __device__ __forceinline__ void leave(TileHolds, LayerHolds) {}
  __device__ __forceinline__ void write(LossPlane, int, int) {}
  __device__ __forceinline__ void read(LossPlane, int, int) {}
};

#endif

}  // namespace fokker::kernels
