"""The operators of the domain `turbo_onnx`, one folder each."""
