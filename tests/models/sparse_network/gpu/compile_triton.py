"""Compile the Triton kernels for a device that is not there; run by test_triton.py in a process of its own.

The interpreter is Python and forgives what the compiler refuses: a branch that changes a type, a constant that is none.
"""

import torch
import triton
from check_triton import parameters, random_topology
from triton.backends.compiler import GPUTarget

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.gpu import backend
from fulgurite.models.sparse_network.gpu import launch as triton_launch


class AbsentDevice:
    """What Triton asks of a device before it starts anything on it."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def compile_all(dtype, batch, kernels, *, inference=False, **options):
    topology = random_topology(0, **options)
    given, _ = parameters(topology, batch, 0, response=True, dtype=dtype)
    structure = topology.packed
    for kernel in kernels:
        _, values = backend.forward(*given, structure, True, kernel=kernel)
        if inference:
            backend.forward(*given, structure, False, kernel=kernel)
        grad_y = given[0].new_ones(batch, topology.num_outputs)
        backend.backward(grad_y, values, *given[1:], structure, True, True, True, True, kernel=kernel)


def main() -> None:
    made = []
    run = triton.JITFunction.run

    def only_compile(self, *args, **options):
        made.append(run(self, *args, **options | {"warmup": True}))

    triton.JITFunction.run = only_compile
    triton.runtime.driver.set_active(AbsentDevice())
    backend._launch = lambda tensor: triton_launch

    compile_all(torch.float32, 200, ["threads", "tiles", "levels"], inference=True, activations=["relu"])
    compile_all(torch.float32, 1, ["tiles"], activations=["relu", "gelu"])
    compile_all(torch.float64, 3, ["threads", "levels"], activations=list(ACTIVATIONS), aggregations=list(AGGREGATIONS))
    kernels = {(kernel.metadata.name, kernel.hash) for kernel in made}
    print(*sorted({name for name, _ in kernels}), len(kernels))


if __name__ == "__main__":
    main()
