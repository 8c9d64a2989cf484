"""One rewrite a file. The order in which they run is in `turbo_onnx.pipeline`."""
