"""Compile the kernels for a device that is not there; run by test_operator.py in a process of its own.

The interpreter is Python and forgives what the compiler refuses: a branch that changes a type, a constant that is none.
"""

import torch
import triton
from triton.backends.compiler import GPUTarget

from fulgurite.models.repgraph.gpu import launch


class AbsentDevice:
    """What Triton asks of a device before it starts anything on it."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def compile_all(side, depth, dtype, *, groups=1, nodes=9, far=0, tied=True, ways=(False, True)):
    rows = torch.empty(1, side * side, groups, depth, dtype=dtype)
    positions = torch.zeros(1, side * side, groups, nodes, 2)
    pooled = torch.empty(1, far, groups, depth, dtype=dtype) if far else None
    given = launch.Given(rows, rows, None if tied else rows, positions, (side, side), pooled, None if tied else pooled)
    out, lse = launch.forward(given)
    for deterministic in ways:
        launch.backward(given, out, lse, out, lse, deterministic=deterministic)


def main() -> None:
    made = []
    run = triton.JITFunction.run

    def only_compile(self, *args, **options):
        made.append(run(self, *args, **options | {"warmup": True}))

    triton.JITFunction.run = only_compile
    triton.runtime.driver.set_active(AbsentDevice())

    compile_all(16, 256, torch.bfloat16)
    compile_all(8, 20, torch.float32, groups=2, nodes=5, far=4, tied=False)
    compile_all(4, 600, torch.float16, far=1)
    for kernel in {kernel.hash: kernel for kernel in made}.values():
        print(kernel.metadata.name)


if __name__ == "__main__":
    main()
