#pragma once

#include "custom_ops/bias_gelu/operator.h"
#include "custom_ops/cuda/kernels.h"

namespace turbo_onnx {

class CudaBiasGelu {
 public:
  using Signature = signature::BiasGelu;
  using In = Signature::In;
  using Out = Signature::Out;
  static inline int in_place_inputs[] = {In::x};
  static inline int in_place_outputs[] = {Out::output};

  explicit CudaBiasGelu(const Signature::Attributes& attributes) : tanh_(BiasGelu::approximates(attributes)) {}

  void compute(const Context& context, const cuda::Kernels& kernels) const {
    const Tensor x = context.input(In::x);
    const Tensor bias = context.input(In::bias);
    const size_t rows = BiasGelu::rows(x, bias);
    const size_t width = x.last_dimension();
    char* output = context.output<char>(Out::output, x.shape);
    const auto key =
        cuda::Key("bias_gelu").type(x.type).value("width", width).value("bias", bias.present).value("tanh", tanh_);
    const auto grid = [&](cuda::Tile tile) {
      return cuda::Grid{cuda::tiles(rows, tile.x), cuda::tiles(width, tile.y)};
    };
    kernels.launch(context.stream(), key, grid, x.data, bias.data, output, static_cast<int64_t>(rows));
  }

 private:
  bool tanh_;
};

}  // namespace turbo_onnx
