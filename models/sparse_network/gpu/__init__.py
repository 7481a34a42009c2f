"""The GPU kernels, in Triton; nothing here is imported before they are asked for."""
