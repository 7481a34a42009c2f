"""Ours against PyTorch Geometric Temporal's cells, the peer in an interpreter of its own: for dynamic_gnn.py."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from dynamic_gnn_cases import Size, made, network
from dynamic_gnn_parameters import FORMULAS, as_peer
from torch import Tensor

from fulgurite.plugins.snapshot_parallel import Shard
from fulgurite.plugins.snapshot_parallel.graphs import build

ORDER = 2  # of GConvGRU's Chebyshev polynomials; the peer calls it K
OPTIONS = {"GConvGRU": {"order": ORDER}, "EvolveGCNO": {"cell": "gru"}}
TURNS = Callable[..., dict[str, tuple[float, float, float]]]
OURS, REBUILT, PEER = "ours", "ours, graphs rebuilt in every epoch", "peer"


class Peer:
    """The other interpreter, asked line by line."""

    def __init__(self, python: Path, case: Path, threads: int) -> None:
        script = Path(__file__).with_name("dynamic_gnn_peer.py")
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [str(python), str(script), str(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, *words: object) -> str:
        """One answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"the peer's answer to {' '.join(map(str, words))!r} was {answer or 'nothing'}")
        return answer

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


def write_case(size: Size, path: Path, networks: dict[str, torch.nn.Module], threads: int) -> None:
    """What the peer reads: the same graphs as weighted edge lists, the same features and parameters."""
    timeline = made(size)
    graphs = build(timeline, 0, size.num_snapshots)
    row, column, value = graphs.edge_list()
    bounds = graphs.crow[:: size.num_nodes].long().diff().tolist()
    # Their edges run from source to target, j to i.
    edges = torch.stack([column, row]) % size.num_nodes
    torch.save(
        {
            "threads": threads,
            "features": timeline.features,
            "edge_index": [part.contiguous() for part in edges.split(bounds, dim=1)],
            "edge_weight": [part.clone() for part in (value.float() * graphs.scale).split(bounds)],
            "channels": size.channels,
            "hidden": size.channels,
            "order": ORDER,
            "parameters": {
                model: state for model, net in networks.items() if (state := as_peer(model, net)) is not None
            },
        },
        path,
    )


def epoch_call(net: torch.nn.Module, size: Size, *, rebuild: bool) -> Callable[[], float]:
    """An epoch of ours: forward over the timeline, backward, a step of SGD; the loss is the embeddings' mean square."""
    timeline = made(size)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    shard = Shard.whole(timeline)

    def epoch() -> float:
        begin = perf_counter()
        optimizer.zero_grad(set_to_none=True)
        current = Shard.whole(timeline) if rebuild else shard
        current.run(net).square().mean().backward()
        optimizer.step()
        return perf_counter() - begin

    return epoch


def embeddings(net: torch.nn.Module, size: Size) -> Tensor:
    """(T, N, F) of ours."""
    with torch.no_grad():
        return Shard.whole(made(size)).run(net)


def measure(
    quick: bool, python: Path | None, take_turns: TURNS, *, rounds: int = 5, threads: Sequence[int] = (1, 2)
) -> dict[str, Any]:
    """Every cell at every size and thread count."""
    sizes = (
        [Size(200, 4, 16, 800)]
        if quick
        else [Size(2_000, 32, 32, 4_000), Size(10_000, 32, 64, 20_000), Size(20_000, 64, 8, 2_000)]
    )
    results: dict[str, Any] = {"what": None, "sizes": []}
    for size in sizes:
        for count in (1,) if quick else threads:
            torch.set_num_threads(count)
            found = measure_size(size, count, python, take_turns, rounds=1 if quick else rounds)
            results["what"] = found.pop("what")
            results["sizes"].append(found | {"size": asdict(size), "title": str(size), "threads": count})
    return results


def measure_size(size: Size, threads: int, python: Path | None, take_turns: TURNS, *, rounds: int) -> dict[str, Any]:
    """Every cell at one size."""
    networks = {model: network(model, size.channels, 1, **OPTIONS.get(model, {})) for model in FORMULAS}
    with tempfile.TemporaryDirectory() as folder:
        peer, what = None, None
        if python is not None:
            write_case(size, Path(folder, "case.pt"), networks, threads)
            peer = Peer(python, Path(folder, "case.pt"), threads)
            what = peer.ask("what")
        try:
            rows = {}
            for model, net in networks.items():
                calls = {
                    OURS: epoch_call(net, size, rebuild=False),
                    REBUILT: epoch_call(net, size, rebuild=True),
                }
                apart = None
                if peer is not None:
                    if as_peer(model, net) is not None:
                        peer.ask("forward", model, Path(folder, "embeddings.pt"))
                        theirs = torch.load(Path(folder, "embeddings.pt"), weights_only=True)
                        ours = embeddings(net, size)
                        apart = float((ours - theirs).abs().max() / theirs.abs().max())
                    calls[PEER] = lambda model=model: float(peer.ask("epoch", model))
                seconds = take_turns(calls, rounds=rounds)
                rows[model] = {"seconds": seconds, "apart": apart}
                line = "; ".join(f"{name} {values[0]:.3f} s" for name, values in seconds.items())
                print(f"peer {model}, {size}, {threads} threads: {line}; apart by {apart}", flush=True)
        finally:
            if peer is not None:
                peer.stop()
    return {"what": what, "rows": rows}
