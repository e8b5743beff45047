"""The back end that compiles graphs to C++."""
