"""Dynamic asynchronous iterations: their model, the engine that runs them between processes, and the strategy.

Paper: Daggitt and Griffin, *Dynamic Asynchronous Iterations*, JPDC 164 (2022), https://arxiv.org/abs/2012.01686.
"""
