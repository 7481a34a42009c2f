"""SparseNetwork's part of docs/benchmarks.md, from the figures that benchmarks/sparse_network.py measured."""

from typing import Any

from tables import markdown

OURS = "SparseNetwork"


def report(results: dict[str, Any]) -> str:
    """The page's section, with the parts that there are."""
    parts = [
        "## SparseNetwork",
        f"`python benchmarks/sparse_network.py`, {results['date']}. {results['machine']}.",
        "float32, compiled kernels warm, threads pinned to cores (one thread where nothing else is said), competitors "
        "taking turns in every round; medians and quartiles of seven rounds (three where a call takes seconds). "
        "1 GE/s = 10⁹ edges × samples a second; nothing is skipped, so these rates are not comparable with "
        "GraphChallenge records that leave out dead inputs. Inputs are synthetic; RadiX stands for the GraphChallenge "
        "topology.",
    ]
    for name, write in SECTIONS.items():
        if name in results:
            parts += write(results[name])
    parts.append("Not measured on a GPU yet: the Triton kernels have been run in Triton's interpreter alone.")
    return "\n\n".join(parts)


def _rate_table(rows: dict[str, dict[str, list[float]]]) -> str:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    body = []
    for name in names:
        cells = [_rate(row[name]) if name in row else "–" for row in rows.values()]
        body.append((name, *cells))
    return markdown(("GE/s (quartiles)", *(f"batch {batch}" for batch in rows)), body)


def _rate(values: list[float]) -> str:
    median, low, high = values
    digits = 3 if median < 0.1 else 2 if median < 10 else 1
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _radix(found: dict[str, Any]) -> list[str]:
    return [
        f"### RadiX 1024×{found['layers']}, forward",
        f"{found['edges']:,} edges, ReLU capped at 32, its own biases and weights; {found['alive']:.0%} of the inputs "
        "(noise of 30 % and filled squares, mixed) are alive at the end.",
        _rate_table(found["rows"]),
    ]


def _training(found: dict[str, Any]) -> list[str]:
    return [
        f"### RadiX topology, {found['layers']} layers, random weights, forward and backward",
        f"{found['edges']:,} edges; the rate counts each edge once for both passes together. The CSR matrices and the "
        "dense ones are built from flat weights in every step, as training needs.",
        _rate_table(found["rows"]),
    ]


def _milliseconds(values: list[float]) -> str:
    median, low, high = (1e3 * value for value in values)
    digits = 3 if median < 1 else 2 if median < 100 else 0
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def _dags(found: list[dict[str, Any]]) -> list[str]:
    parts = ["### Irregular DAGs, forward, milliseconds (quartiles)"]
    names = list(found[0]["seconds"])
    head = ["edges / levels", "batch", *names, "fastest peer ÷ ours"]
    rows = []
    for case in found:
        seconds = case["seconds"]
        best = min(values[0] for name, values in seconds.items() if "level" in name)
        rows.append(
            [
                f"{case['edges']:,} / {case['levels']:,}",
                case["batch"],
                *(_milliseconds(seconds[name]) for name in names),
                f"{best / seconds[names[0]][0]:.1f}×",
            ]
        )
    parts.append("*fastest peer*: the better of CSR and dense a level.")
    parts.append(markdown(head, rows))
    return parts


def _population(found: list[dict[str, Any]]) -> list[str]:
    return [part for population in found for part in _one_population(population)]


def _one_population(found: dict[str, Any]) -> list[str]:
    seconds = found["seconds"]
    theirs = seconds["neat-python"][0]
    low, middle, high = found["edges"]
    return [
        f"### {found['genomes']:,} unlike genomes of {middle} edges × {found['batch']} samples, one call",
        f"neat-python genomes with {low} to {high} edges (median {middle}); outputs agree to "
        f"{found['difference']:.1g}.",
        markdown(
            ("", "ms (quartiles)", "neat-python ÷ this"),
            [(name, _milliseconds(values), f"{theirs / values[0]:,.0f}×") for name, values in seconds.items()],
        ),
    ]


def _sweep(found: list[dict[str, Any]]) -> list[str]:
    rows = []
    for case in found:
        sparse, dense, auto = (case["seconds"][name] for name in ("cpu", "dense", "auto"))
        best = min(sparse[0], dense[0])
        rows.append(
            [
                f"{case['density']:.1%}, {case['kind']}",
                case["batch"],
                _milliseconds(sparse),
                _milliseconds(dense),
                _milliseconds(auto),
                "sparse" if sparse[0] < dense[0] else "**dense**",
                f"{auto[0] / best - 1:+.0%}",
            ]
        )
    head = ("density", "batch", "sparse, ms", "dense a level, ms", "auto, ms", "winner", "auto against the winner")
    return [
        "### Density: where dense wins (12 layers of 1024, one thread)",
        "In every round *auto* runs right after dense, and pays for fresh memory where both of the others do not.",
        markdown(head, rows),
    ]


def _memory(found: dict[str, float]) -> list[str]:
    rows = [(name, f"{megabytes:,.0f} MB") for name, megabytes in found.items()]
    return [
        "### Peak memory that one training step adds (RadiX topology, 12 layers, batch 4096)",
        markdown(("", "peak"), rows),
    ]


SECTIONS = {
    "radix": _radix,
    "training": _training,
    "dags": _dags,
    "population": _population,
    "sweep": _sweep,
    "memory": _memory,
}
