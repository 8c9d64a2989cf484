"""CUDA kernels: written in Triton beside each operator, compiled ahead of time, carried by the model."""
