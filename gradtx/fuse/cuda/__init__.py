"""The back end that compiles graphs to CUDA C++."""
