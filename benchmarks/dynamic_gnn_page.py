"""Dynamic GNNs' part of docs/benchmarks.md, from the figures that benchmarks/dynamic_gnn.py measured."""

from __future__ import annotations

from typing import Any

from dynamic_gnn_parameters import FORMULAS
from tables import markdown


def report(results: dict[str, Any]) -> str:
    """The page's section, with the parts that there are."""
    parts = [
        "## Dynamic GNNs",
        f"`python benchmarks/dynamic_gnn.py`, {results['date']}. {results['machine']}.",
        "float32; competitors take turns in every round, medians and quartiles. Data are synthetic where no data set "
        "is named.",
    ]
    if not results["gpu"]:
        parts.append(
            "Not measured on a GPU yet: resident, full and difference modes, and how much of a transfer is hidden."
        )
    for name, write in SECTIONS.items():
        if name in results:
            parts += write(results[name])
    return "\n\n".join(parts)


def _seconds(values: list[float]) -> str:
    median, low, high = values
    scale, digits = (1e3, 0 if median >= 0.1 else 1) if median < 1 else (1, 2)
    unit = "ms" if scale == 1e3 else "s"
    return f"{median * scale:,.{digits}f} ({low * scale:,.{digits}f}–{high * scale:,.{digits}f}) {unit}"


def _apart(model: str, value: float | None) -> str:
    return f"not the same: {FORMULAS[model][1]}" if value is None else f"{value:.0e}"


def _speed(found: dict[str, Any]) -> list[str]:
    rows = []
    for model, row in found["rows"].items():
        one, two, threads = row["seconds"].values()
        rows.append(
            (
                model,
                _seconds(one),
                _seconds(two),
                f"**{one[0] / two[0]:.2f}×**",
                _seconds(threads),
                f"{one[0] / threads[0]:.2f}×",
                f"{row['sent'] / 1e6:,.0f} MB",
                f"{row['apart']:.0e}",
            )
        )
    head = (
        "network",
        "1 rank, 1 thread",
        "2 ranks, 1 thread each",
        "gain",
        "1 rank, 2 threads",
        "gain",
        "a rank sends, a step",
        "losses apart",
    )
    return [
        "### Two ranks against one",
        f"{found['layers']} layers, {found['title']}; a training step of `DynamicNodeClassifier` in a `Trainer` with "
        "the "
        "strategy, in processes of their own (gloo; what ranks of one machine exchange goes "
        "through shared memory). Several ranks on one machine share its memory and "
        "cores: "
        "this shows what the strategy costs, not how a cluster scales. *Losses apart*: the largest relative difference "
        "between one and two ranks over the steps measured.",
        markdown(head, rows),
    ]


def _peer(found: dict[str, Any]) -> list[str]:
    measured = found["what"] is not None
    parts = ["### Against PyTorch Geometric Temporal, seconds of an epoch"]
    caption = (
        "One layer; forward over the timeline, backward, a step of SGD. Graphs lie ready in both, normalisation is "
        "part of "
        "the peer's cells; ours keeps the first layer's $\\tilde A X$, which has no parameters, from epoch to epoch "
        "(*rebuilt*: it does not, and builds every graph anew from its events). *Apart*: the largest difference "
        "between the "
        "embeddings over the largest embedding, same parameters. "
    )
    parts.append(caption + (f"Peer: {found['what']}." if measured else "**Peer not measured**: no `--peer-python`."))
    head = ["network", "peer is", "threads", "ours", "ours, rebuilt", "peer", "peer ÷ ours", "peer ÷ rebuilt", "apart"]
    for title in dict.fromkeys(case["title"] for case in found["sizes"]):
        rows = []
        for case in (case for case in found["sizes"] if case["title"] == title):
            for model, row in case["rows"].items():
                ours, rebuilt, *peer = row["seconds"].values()
                their = _seconds(peer[0]) if peer else "not measured"
                gains = [f"**{peer[0][0] / mine[0]:.1f}×**" if peer else "–" for mine in (ours, rebuilt)]
                apart = _apart(model, row["apart"]) if peer else "–"
                rows.append(
                    (
                        model,
                        FORMULAS[model][0],
                        case["threads"],
                        _seconds(ours),
                        _seconds(rebuilt),
                        their,
                        *gains,
                        apart,
                    )
                )
        parts += [f"**{title}**", markdown(head, rows)]
    return parts


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.2f}"


def _transfer(found: dict[str, Any]) -> list[str]:
    rows = []
    for row in found["rows"]:
        moved = row["bytes"]
        kinds = " + ".join(f"{kind} {_megabytes(count)}" for kind, count in row["formats"].items())
        rows.append(
            (
                f"{row['data']}{', symmetrised' * row['symmetrised']}, {row['window']}",
                f"{row['nnz']:,}",
                _megabytes(row["naive"]),
                _megabytes(row["csr32"]),
                *(_megabytes(moved[mode]) for mode in ("full", "difference", "events")),
                kinds,
                f"**{row['csr32'] / moved['auto']:.1f}×**",
                f"{moved['full'] / moved['auto']:.1f}×",
                f"{row['rebuild'][0]:.2f} ({row['rebuild'][1]:.2f}–{row['rebuild'][2]:.2f})",
            )
        )
    sizes = "; ".join(
        f"{name}: N = {size['num_nodes']:,}, T = {size['num_snapshots']}, {size['events']:,} distinct events"
        for name, size in found["sizes"].items()
    )
    absent = f" Not here, so not measured: {', '.join(found['absent'])}." if found["absent"] else ""
    head = (
        "data, window", "nnz", "int64 COO", "int32 CSR", "full int32", "difference", "events", "auto takes",
        "CSR ÷ auto", "full ÷ auto", "build, ms a snapshot",
    )  # fmt: skip
    parts = [
        "### What travels to the device, MB for the whole timeline as one chunk",
        f"{sizes}.{absent} Topology alone, features come on top. *Full int32*: for each snapshot the smaller of int32 "
        "CSR and COO, of the graph as it is used (symmetrised where it is). *int64 COO* with float values, 20 bytes "
        "an entry, is what frameworks keep. *Build*: the graphs from their events, on the CPU, one thread, after "
        "compiling.",
        markdown(head, rows),
    ]
    return parts + (_modes(found["modes"]) if found["modes"] else [])


def _modes(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            mode,
            f"{row['seconds'] * 1e3:,.1f}",
            _megabytes(row["bytes"]),
            *(f"{row[name] * 1e3:,.1f}" if row["copy"] else "–" for name in ("copy", "waited")),
            "–" if row["hidden"] is None else f"**{row['hidden']:.0%}**",
            _megabytes(row["peak"]),
        )
        for mode, row in found["rows"].items()
    ]
    head = ("on the GPU", "epoch, ms", "MB sent, an epoch", "copies, ms", "waited for, ms", "hidden", "peak, MB")
    return [
        f"### Modes of transfer on the GPU, {found['model']}",
        f"{found['title']}, {found['blocks']} blocks, each asked for twice in an epoch (forward and the re-run). "
        "Copies and waits by CUDA events on the copying and the computing stream; what is not waited for is hidden.",
        markdown(head, rows),
    ]


def _memory(found: dict[str, Any]) -> list[str]:
    rows = []
    for row in found["rows"]:
        blocks = "whole" if row["collectives"] == "none" else f"{row['blocks']} blocks, {row['collectives']}"
        off = row["measured"] / row["predicted"] - 1
        rows.append((row["model"], blocks, _megabytes(row["predicted"]), _megabytes(row["measured"]), f"{off:+.1%}"))
    return [
        "### Peak memory of a step against blocks, MB",
        f"{found['layers']} layers, {found['title']}; the rank of two that needs more. Activations, carries and saved "
        "collectives, graphs, features and weights left out; counted operator by operator. *Predicted*: by the "
        "planner, from "
        "the timeline's statistics and a run in small.",
        markdown(("network", "", "predicted", "measured", "measured − predicted"), rows),
    ]


def _learning(found: dict[str, Any]) -> list[str]:
    rates = ", ".join(f"{rate:g}" for rate in found["rates"])
    parts = [
        "### What is learned",
        "Test scores, mean ± standard deviation over seeds (of initial weights, and of links' negatives; data "
        "and splits are the same). The same epochs, channels and module for every network, those of the recipe. Every "
        f"network's learning rate is the one of {rates} with the best validation for seed {found['tuning_seed']}, "
        f"which is in no table; the weights that count are those of the best validation, looked at every "
        f"{found['look_every']}th epoch. *Memory*: an LSTM along each vertex's timeline, of CD-GCN's width, that sees "
        "no graph. *Margin*: the mean above that of the best baseline.",
    ]
    for case in found["cases"]:
        rows = case["rows"]
        metrics = list(next(iter(rows.values()))["scores"])
        first = {name: _mean(row["scores"][metrics[0]]) for name, row in rows.items()}
        best = max(first[name] for name, row in rows.items() if row["baseline"])
        table = []
        for name, row in rows.items():
            cells = [f"{_mean(values):.3f} ± {_spread(values):.3f}" for values in row["scores"].values()]
            margin = "baseline" if row["baseline"] else f"**{first[name] - best:+.3f}**"
            table.append((name, f"{row['rate']:g}", *cells, margin))
        parts.append(
            f"**{case['name']}** (`dynamic_gnn/{case['recipe']}`): {case['epochs']} epochs, window {case['life']}, "
            f"the wide one {case['wide']}; seeds {', '.join(map(str, case['seeds']))}"
        )
        parts.append(markdown(("network", "rate", *metrics, f"margin, {metrics[0]}"), table))
    return parts


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _spread(values: list[float]) -> float:
    mean = _mean(values)
    return (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5


SECTIONS = {"speed": _speed, "peer": _peer, "transfer": _transfer, "memory": _memory, "learning": _learning}
