import math
from dataclasses import replace

import pytest

from fulgurite.models.sparse_network.choice.cost import Machine, Workload, estimate

CPU = Machine("cpu")
LAYER = Workload(nodes=1024, edges=2**20, depth=1, curved=0, gathering=0, dense_size=2**20, dense_pieces=1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("machine", [CPU, Machine("cuda"), Machine("cuda", tensor_cores=True)])
def test_estimates_grow_with_the_work(machine, training):
    sparse = "cpu" if machine.device == "cpu" else "triton"
    for backend in (sparse, "dense", "reference"):
        times = [estimate(LAYER, machine, backend, batch, training=training) for batch in (1, 64, 4096, 65536)]
        assert times == sorted(times)
        assert 0 < times[0] < times[-1] < math.inf
    more = replace(LAYER, edges=2 * LAYER.edges)
    assert estimate(more, machine, sparse, 4096, training=training) > estimate(
        LAYER, machine, sparse, 4096, training=training
    )
    assert estimate(LAYER, machine, sparse, 0, training=training) > 0
    other = "triton" if sparse == "cpu" else "cpu"
    assert estimate(LAYER, machine, other, 64, training=training) == math.inf
    assert estimate(replace(LAYER, dense_size=None), machine, "dense", 64, training=training) == math.inf


def test_estimates_know_where_each_wins():
    """Dense at full density and large batches; sparse at one percent; sparse where levels are many and narrow."""
    for training in (False, True):
        costs = {name: estimate(LAYER, CPU, name, 4096, training=training) for name in ("cpu", "dense")}
        assert costs["dense"] < costs["cpu"]
        thin = replace(LAYER, edges=LAYER.edges // 100)
        costs = {name: estimate(thin, CPU, name, 256, training=training) for name in ("cpu", "dense")}
        assert costs["cpu"] < costs["dense"]
        deep = Workload(
            nodes=6000, edges=50_000, depth=3000, curved=0, gathering=0, dense_size=10**6, dense_pieces=10**5
        )
        costs = {name: estimate(deep, CPU, name, 256, training=training) for name in ("cpu", "dense")}
        assert 10 * costs["cpu"] < costs["dense"]


def test_more_threads_and_wider_numbers_count():
    def cost(machine, backend, batch=4096):
        return estimate(LAYER, machine, backend, batch, training=False)

    for backend in ("cpu", "dense"):
        assert cost(Machine("cpu", threads=4), backend) < cost(CPU, backend)
        assert cost(Machine("cpu", itemsize=8), backend) > cost(CPU, backend)
    assert cost(Machine("cpu", threads=4), "cpu", batch=1) == cost(CPU, "cpu", batch=1)
