"""SeqPoint's part of docs/benchmarks.md, from the figures that benchmarks/seqpoint.py measured."""

from typing import Any

from tables import markdown


def report(results: dict[str, Any]) -> str:
    """The page's section."""
    parts = [
        "## SeqPoint",
        f"`python benchmarks/seqpoint.py`, {results['date']}. {results['machine']}.",
        "Select on configuration A (2 threads, fp32, hidden size 128, for speech 96); project configuration B from "
        "**fresh** timings of the points, taken from passes in random order. Such a pass and the epoch in its own "
        "order, which is the truth, take turns step by step, so that the drift of a shared machine falls on both "
        "(*mean error*, *bias*, *p95*, *max*); *apart* is the mean error against the epochs of the other rounds, "
        "minutes away. "
        f"{results['selections']} selections a cell, from logs of A re-sampled out of three. All methods run "
        "as many steps as the default, `paper` its points with as many replicates as make up at least that many. "
        "*serial*: the epoch's time over the time of all runs one after the other; *critical*: over the longest single "
        "run (points in parallel), both against **one epoch** of B. *covered*: how often the nominal 95 % interval "
        "held the truth, where a method gives one.",
        "Read with care: the figures were measured once; a cell's selections share its three rounds, so they are not "
        "independent. How the design came about is in "
        "[the component's page](seqpoint.md#results).",
    ]
    for name, workload in results["workloads"].items():
        parts.append(f"### {name}")
        parts.append(
            f"{workload['iterations']} iterations; an epoch of A takes {workload['seconds_A']:.1f} s. Noise floor: the "
            f"same ordered epoch three times deviates by at most {workload['noise_floor']:.2%} from its mean."
        )
        for cell, values in workload["cells"].items():
            parts.append(
                f"**B = {cell}** ({values['truth']:.1f} s; the same epoch in its rounds spreads over "
                f"{values['spread']:.2%})"
            )
            rows = [
                (
                    method,
                    f"{row['mean']:.2%}",
                    f"{row['bias']:+.2%}",
                    f"{row['p95']:.2%}",
                    f"{row['max']:.2%}",
                    f"{row['apart']:.2%}",
                    "" if row["covered"] is None else f"{row['covered']:.0%}",
                    f"{row['share']:.1%}",
                    f"{row['serial']:.0f}×",
                    f"{row['critical']:.0f}×",
                )
                for method, row in sorted(values["methods"].items(), key=lambda item: item[1]["mean"])
            ]
            head = (
                "method",
                "mean error",
                "bias",
                "p95",
                "max",
                "apart",
                "covered",
                "iterations run",
                "serial",
                "critical",
            )
            parts.append(markdown(head, rows))
    if results["overhead"]:
        parts.append("### What logging costs")
        rows = [
            (
                name,
                f"{row['step_ms']:.1f} ms",
                f"{row['hooks_us']:.0f} µs",
                f"{row['hooks_share']:.2%}",
                f"{row['paired_median']:+.2%} ({row['paired_low']:+.2%} to {row['paired_high']:+.2%})",
            )
            for name, row in results["overhead"].items()
        ]
        head = ("workload", "step", "in the hooks, a step", "share", "paired runs with − without (spread)")
        parts.append(markdown(head, rows))
    if results["traces"]:
        parts.append("### Traces")
        rows = [
            (
                name,
                f"{row['points']}",
                f"{row['bytes'] / 1e6:.2f} MB",
                f"{row['whole'] / 1e6:.1f} MB",
                f"{row['whole_raw'] / 1e6:.0f} MB",
                f"{row['whole'] / row['bytes']:.0f}×",
            )
            for name, row in results["traces"].items()
        ]
        head = ("workload", "points", "their traces, gzip", "whole epoch, gzip", "whole epoch, as written", "less")
        parts.append(markdown(head, rows))
    parts.append(results["gpu"])
    return "\n\n".join(parts)
