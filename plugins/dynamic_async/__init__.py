"""Dynamic asynchronous iterations: their model, the engine that runs them between processes, and the strategy.

After ``import fulgurite.plugins.dynamic_async``, Lightning knows ``Trainer(strategy="dynamic_async")``.

Paper: Daggitt and Griffin, *Dynamic Asynchronous Iterations*, JPDC 164 (2022), https://arxiv.org/abs/2012.01686.
"""

from fulgurite.plugins.late_registration import register_strategy

register_strategy(
    "dynamic_async",
    "fulgurite.plugins.dynamic_async.strategy:DynamicAsyncStrategy",
    "fixed data shards over processes that come and go",
)
