"""SparseNetwork against what people do without it: one run, threads pinned, compiled kernels warm, medians and spread.

    python benchmarks/sparse_network.py                    everything, about twenty minutes on two cores
    python benchmarks/sparse_network.py --only dags sweep  some parts; the others' tables stay as the JSON has them
    python benchmarks/sparse_network.py --quick            small sizes, to see that it works; writes no page

1 GE/s is 10⁹ edges times samples per second. Nothing is skipped: every edge is computed for every sample, so the rates
must not be compared with GraphChallenge records, which leave out inputs that have died.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparse_baselines import PEERS
from sparse_network_page import report
from tables import machine, write_section
from torch import Tensor

from fulgurite.models import SparseNetwork, SparsePopulation
from fulgurite.models.sparse_network import radix_inputs, radix_net

PARTS = ("radix", "training", "dags", "population", "sweep", "memory")
BATCHES = (1, 64, 256, 4096)
OURS = "SparseNetwork"
ONE, TWO = f"{OURS}, 1 thread", f"{OURS}, 2 threads"
HALVES = "two halves of the batch, each on a thread of its own"


def pin(threads: int) -> None:
    """So many threads of torch and ours, on as many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0) if threads == 1 else range(os.cpu_count() or 1))[:threads])
    torch.set_num_threads(threads)


def compete(
    calls: dict[str, Callable[[], object]],
    *,
    threads: dict[str, int] | None = None,
    rounds: int = 7,
    seconds: float = 0.4,
) -> dict[str, tuple[float, float, float]]:
    """Median, first and third quartile of the seconds of a call, the competitors taking turns in every round.

    A call much shorter than a timer's noise is repeated within a round; one of more than two seconds has fewer rounds.
    Where the number of threads changes (one, unless ``threads`` says otherwise), a call that is not timed comes first.
    """
    wanted = {name: (threads or {}).get(name, 1) for name in calls}
    repeats = {}
    for name, call in calls.items():
        pin(wanted[name])
        for _ in range(2):
            begin = time.perf_counter()
            call()
            once = time.perf_counter() - begin
            if once > 2:
                break
        repeats[name] = (max(1, int(seconds / rounds / max(once, 1e-7))), 3 if once > 2 else rounds)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            count, most = repeats[name]
            if number >= most:
                continue
            if torch.get_num_threads() != wanted[name]:
                pin(wanted[name])
                call()
            begin = time.perf_counter()
            for _ in range(count):
                call()
            taken[name].append((time.perf_counter() - begin) / count)
    return {name: tuple(np.quantile(values, [0.5, 0.25, 0.75]).tolist()) for name, values in taken.items()}  # type: ignore[misc]


def internal_bias(net: SparseNetwork) -> Tensor:
    """Biases in the topology's node order, as the peers want them."""
    users = net.topology.node_ids[net.num_inputs :] - net.num_inputs
    return net.bias.detach()[users]


def forward_call(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """One inference."""

    def call() -> object:
        with torch.inference_mode():
            return forward(x)

    return call


def halves_call(net: SparseNetwork, x: Tensor) -> Callable[[], object]:
    """What two cores of this machine can give at the moment: two threads that know nothing of each other, no pool."""
    pool = ThreadPoolExecutor(2, initializer=lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)))

    def half(part: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([net(tile) for tile in part.split(64)])  # one tile is never shared out

    return lambda: torch.cat(list(pool.map(half, x.chunk(2))))


def training_call(forward: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Callable[[], object]:
    """Forward and backward, gradients thrown away."""

    def call() -> object:
        y = forward(x)
        y.backward(gradient)
        return y

    return call


def agree(calls: dict[str, Callable[[], Any]], tolerance: float = 1e-3) -> None:
    """Stop if the competitors do not compute the same thing."""
    pin(1)
    results = {name: call() for name, call in calls.items()}
    (first, expected), *others = results.items()
    for name, found in others:
        scale = float(expected.detach().abs().max()) + 1e-6
        off = float((found.detach() - expected.detach()).abs().max()) / scale
        if not off < tolerance:
            raise SystemExit(f"{name} and {first} differ by {off:.2g} of the largest output")


def rates(found: dict[str, tuple[float, float, float]], edges: int, batch: int) -> dict[str, list[float]]:
    """GE/s: median, low and high quartile."""
    return {
        name: [edges * batch / seconds / 1e9 for seconds in (median, third, first)]
        for name, (median, first, third) in found.items()
    }


def alive(net: SparseNetwork, x: Tensor) -> float:
    """Share of samples with an output that is not zero."""
    with torch.inference_mode():
        return float((net(x) > 0).any(dim=1).float().mean())


def measure_radix(quick: bool) -> dict[str, Any]:
    """RadiX 1024×120 forward."""
    layers = 6 if quick else 120
    net = radix_net(1024, layers, backend="cpu")
    topology, edges = net.topology, net.num_edges
    weight, bias = net.weight.detach(), internal_bias(net)
    rows = {}
    for batch in (1, 128) if quick else (1, 64, 128, 256, 4096):
        x = radix_inputs("mixed", 1024, batch, seed=0)
        calls = {ONE: forward_call(net, x), TWO: forward_call(net, x)}
        if batch >= 128:
            calls[HALVES] = halves_call(net, x)
        for name, make in PEERS.items():
            if name == "gather + index_add" and batch > 256:
                continue  # 0.5 GB of messages a level
            calls[name] = forward_call(make(topology, weight, bias, 32.0), x)
        agree(calls)
        found = compete(calls, threads={TWO: 2, HALVES: 2})
        rows[str(batch)] = rates(found, edges, batch)
        print(f"radix forward B={batch}", show(rows[str(batch)]), flush=True)
    return {
        "layers": layers,
        "edges": edges,
        "alive": alive(net, radix_inputs("mixed", 1024, 256, seed=0)),
        "rows": rows,
    }


def radix_topology(layers: int) -> SparseNetwork:
    """RadiX's wiring with random weights and plain ReLU."""
    topology = radix_net(1024, layers, backend="cpu").topology
    torch.manual_seed(0)
    return SparseNetwork(
        topology.edges, num_inputs=1024, outputs=topology.node_ids[topology.out_idx], activation="relu", backend="cpu"
    )


def measure_training(quick: bool) -> dict[str, Any]:
    """RadiX topology of 12 layers with random weights, forward and backward."""
    layers = 3 if quick else 12
    net = radix_topology(layers)
    topology = net.topology
    rows = {}
    for batch in (64,) if quick else BATCHES:
        x = torch.randn(batch, 1024)
        gradient = torch.randn(batch, net.num_outputs)
        calls = {ONE: training_call(net, x, gradient), TWO: training_call(net, x, gradient)}
        for name, make in PEERS.items():
            if name == "compiled scalar loop" or (name == "gather + index_add" and batch > 256):
                continue  # it has no gradients; 0.5 GB of messages a level
            weight = net.weight.detach().clone().requires_grad_()
            calls[name] = training_call(make(topology, weight, internal_bias(net), None), x, gradient)
        agree(calls)
        found = compete(calls, threads={TWO: 2})
        rows[str(batch)] = rates(found, net.num_edges, batch)
        print(f"radix training B={batch}", show(rows[str(batch)]), flush=True)
    return {"layers": layers, "edges": net.num_edges, "rows": rows}


def random_dag(nodes: int, edges: int, levels: int, *, inputs: int = 32, seed: int = 0) -> SparseNetwork:
    """A random DAG with as many levels: a spine of one edge a node from the level before, other edges from anywhere."""
    rng = np.random.default_rng(seed)
    level = np.concatenate(
        [np.zeros(inputs, int), np.arange(1, levels + 1), rng.integers(1, levels + 1, nodes - levels)]
    )
    level[inputs:].sort()
    first = np.searchsorted(level, np.arange(levels + 2))
    targets = np.arange(inputs, inputs + nodes)
    below = level[targets] - 1
    spine = np.stack([rng.integers(first[below], first[below + 1]), targets], axis=1)
    to = rng.choice(targets, 2 * edges)
    others = np.stack([(rng.random(2 * edges) * first[level[to]]).astype(int), to], axis=1)
    unique = np.unique(np.concatenate([spine, others]), axis=0)
    keep = np.isin(unique @ [nodes + inputs, 1], spine @ [nodes + inputs, 1])
    extra = rng.permutation(np.flatnonzero(~keep))[: max(0, edges - int(keep.sum()))]
    torch.manual_seed(seed)
    outputs = np.flatnonzero(level == levels)[:16]
    return SparseNetwork(
        np.concatenate([unique[keep], unique[extra]]), num_inputs=inputs, outputs=outputs.tolist(), backend="cpu"
    )


def measure_dags(quick: bool) -> list[dict[str, Any]]:
    """Irregular DAGs, one thread: forward against a level's CSR and dense, at one sample and at 256."""
    pin(1)
    sizes = [(1_000, 6_000, 43), (5_000, 131_000, 310), (12_000, 50_000, 3_047)]
    results = []
    for nodes, edges, levels in sizes[:1] if quick else sizes:
        net = random_dag(nodes, edges, levels)
        weight, bias = net.weight.detach(), internal_bias(net)
        for batch in (1, 256):
            x = torch.randn(batch, net.num_inputs)
            calls = {ONE: forward_call(net, x)}
            for name in ("compiled scalar loop", "torch CSR a level", "masked dense a level", "gather + index_add"):
                calls[name] = forward_call(PEERS[name](net.topology, weight, bias, None), x)
            agree(calls)
            found = compete(calls)
            results.append(
                {"nodes": net.num_nodes, "edges": net.num_edges, "levels": net.depth, "batch": batch, "seconds": found}
            )
            print(f"dag {net.num_edges} edges, {net.depth} levels, B={batch}", show_ms(found), flush=True)
    return results


def genomes(count: int, mutations: int, *, seed: int = 0) -> tuple[list[Any], Any]:
    """As many neat-python genomes, mutated up to so many times, and their configuration."""
    import random
    import tempfile

    import neat

    random.seed(seed)
    text = Path(__file__).with_name("neat.cfg").read_text()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "neat.cfg")
        path.write_text(text)
        config = neat.Config(
            neat.DefaultGenome, neat.DefaultReproduction, neat.DefaultSpeciesSet, neat.DefaultStagnation, str(path)
        )
    population = neat.Population(config)
    made = []
    for number, genome in zip(range(count), population.population.values(), strict=False):
        for _ in range(5 + number % mutations):
            genome.mutate(config.genome_config)
        made.append(genome)
    return made, config


def measure_population(quick: bool) -> list[dict[str, Any]]:
    """Unlike genomes on 64 samples, in one call, against neat-python one by one: young ones and old ones."""
    return [population_of(mutations, quick) for mutations in (60, 300)]


def population_of(mutations: int, quick: bool) -> dict[str, Any]:
    """One population."""
    import neat

    count, batch = (20, 8) if quick else (1000, 64)
    found, config = genomes(count, mutations)
    oracle = [neat.nn.FeedForwardNetwork.create(genome, config) for genome in found]
    population = SparsePopulation([SparseNetwork.from_genome(genome, config) for genome in found])
    x = torch.randn(batch, len(config.genome_config.input_keys))
    samples = x.tolist()

    def theirs() -> Tensor:
        return torch.tensor([[net.activate(sample) for sample in samples] for net in oracle])

    with torch.inference_mode():
        off = float((population(x) - theirs()).abs().max())
    if not off < 1e-4:
        raise SystemExit(f"the population and neat-python differ by {off}")
    target = torch.rand(batch, 1)

    def train() -> object:
        loss = (population(x) - target).square().mean(dim=(1, 2)).sum()
        loss.backward()
        return loss

    calls: dict[str, Callable[[], object]] = {
        ONE: forward_call(population, x),
        TWO: forward_call(population, x),
        f"{OURS}, forward+backward, 1 thread": train,
        "neat-python": theirs,
    }
    seconds = compete(calls, threads={TWO: 2})
    print("population", show_ms(seconds), flush=True)
    sizes = [len(net.edges) for net in population.networks()]
    return {
        "genomes": count,
        "batch": batch,
        "edges": [int(np.min(sizes)), int(np.median(sizes)), int(np.max(sizes))],
        "difference": off,
        "seconds": seconds,
    }


def layered(width: int, layers: int, density: float, *, backend: str, seed: int = 0) -> SparseNetwork:
    """Layers of equal width with as many edges a layer, drawn at random."""
    rng = np.random.default_rng(seed)
    parts = []
    for layer in range(layers):
        flat = rng.choice(width * width, round(density * width * width), replace=False)
        parts.append(np.stack([flat // width + layer * width, flat % width + (layer + 1) * width], axis=1))
    torch.manual_seed(seed)
    nodes = width * (layers + 1)
    return SparseNetwork(
        np.concatenate(parts), num_inputs=width, outputs=range(nodes - width, nodes), num_nodes=nodes, backend=backend
    )


def measure_sweep(quick: bool) -> list[dict[str, Any]]:
    """Where dense wins: sparse, dense and auto over density, one thread."""
    pin(1)
    width, layers = (128, 3) if quick else (1024, 12)
    results = []
    for density in (0.01, 0.5) if quick else (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5):
        nets = {name: layered(width, layers, density, backend=name) for name in ("cpu", "dense", "auto")}
        for batch in (64, 256) if quick else (64, 256, 2048):
            x, gradient = torch.randn(batch, width), torch.randn(batch, width)
            for kind in ("forward", "forward+backward"):
                calls = {
                    name: forward_call(net, x) if kind == "forward" else training_call(net, x, gradient)
                    for name, net in nets.items()
                }
                agree(calls)
                found = compete(calls, rounds=5, seconds=0.3)
                results.append({"density": density, "batch": batch, "kind": kind, "seconds": found})
                print(f"sweep {density:.1%} B={batch} {kind}", show_ms(found), flush=True)
    return results


def measure_memory(quick: bool) -> dict[str, float]:
    """Peak resident memory of forward and backward, RadiX 12 layers, batch 4096, each in a process of its own."""
    results = {}
    for name in [OURS, *(peer for peer in PEERS if peer not in ("compiled scalar loop", "gather + index_add"))]:
        command = [sys.executable, __file__, "--memory-of", name, *(["--quick"] if quick else [])]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results[name] = float(output.splitlines()[-1])
        print(f"memory {name}: {results[name]:.0f} MB", flush=True)
    return results


def memory_of(name: str, quick: bool) -> float:
    """MB that one training step adds to the peak of this process."""
    pin(1)
    net = radix_topology(12)
    weight = net.weight.detach().clone().requires_grad_()
    forward = net if name == OURS else PEERS[name](net.topology, weight, internal_bias(net), None)
    small = torch.randn(2, 1024)
    training_call(forward, small, torch.randn(2, net.num_outputs))()
    batch = 256 if quick else 4096
    x, gradient = torch.randn(batch, 1024), torch.randn(batch, net.num_outputs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before = peak()
    training_call(forward, x, gradient)()
    return peak() - before


def peak() -> float:
    """Most memory that was resident, MB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def show(found: dict[str, list[float]]) -> str:
    """A line for the terminal."""
    return "; ".join(f"{name} {values[0]:.2f}" for name, values in found.items()) + " GE/s"


def show_ms(found: dict[str, tuple[float, float, float]]) -> str:
    """A line for the terminal."""
    return "; ".join(f"{name} {values[0] * 1e3:.3f}" for name, values in found.items()) + " ms"


def main() -> None:
    """Measure, print, write JSON and the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, default=Path("sparse_network_benchmark.json"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory_of(options.memory_of, options.quick))
        return
    warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support is in beta.*")
    torch.sparse.check_sparse_tensor_invariants.disable()
    measures: dict[str, Callable[[bool], Any]] = {
        "radix": measure_radix,
        "training": measure_training,
        "dags": measure_dags,
        "population": measure_population,
        "sweep": measure_sweep,
        "memory": measure_memory,
    }
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    results |= {"date": time.strftime("%Y-%m-%d"), "machine": machine()}
    for part in options.only:
        results[part] = measures[part](options.quick)
        options.json.write_text(json.dumps(results, indent=1))
    text = report(results)
    print(text)
    if not options.quick:
        write_section("sparse_network", text)


if __name__ == "__main__":
    main()
