"""CUDA kernels: written in Triton beside each operator, compiled ahead of time, stored in the model, launched by C++."""
