"""The CPU kernels: compiled by numba, a batch tile at a time through the whole network."""
