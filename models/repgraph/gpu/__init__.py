"""RepGraph's attention as one fused Triton kernel."""
