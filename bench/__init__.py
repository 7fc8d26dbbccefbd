"""Benchmarks: every figure that the project reports comes from here. See README.md."""
