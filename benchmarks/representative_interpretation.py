"""RepresentativeInterpretation against what people look at without it, on real digits, over several training seeds.

    python benchmarks/representative_interpretation.py            everything, about ten minutes on two cores
    python benchmarks/representative_interpretation.py --quick    small sizes, to see that it works; writes no page

A seed draws the split of MNIST5k, the network's start and the order of its training. All methods explain the same
inputs at the same cut and are scored on the same neighbours; intervals are over seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from interpretation_cases import linear_head, maximum, million, shortcut
from interpretation_nets import Digits, Sizes, trained
from interpretation_page import report
from interpretation_peers import Cells, layer_features, peers
from interpretation_scores import SHARES, group, jaccard, keeping, logits_of, nearest
from tables import machine, write_section
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation import DegenerateCutWarning, Interpretation, interpret
from fulgurite.callbacks.representative_interpretation.auto_cut import choose_cut
from fulgurite.callbacks.representative_interpretation.reference import Reference
from fulgurite.plugins.files import write_text

FULL = Sizes(
    seeds=5,
    epochs=3,
    batches=1.0,
    reference=4000,
    held_out=1000,
    inputs=10,
    neighbours=10,
    clusters=30,
    images=1_000_000,
)
QUICK = Sizes(
    seeds=2,
    epochs=1,
    batches=0.4,
    reference=200,
    held_out=100,
    inputs=1,
    neighbours=3,
    clusters=10,
    images=50_000,
    every_cut=False,
    patience=5.0,
)
SAMPLINGS = 3  # seeds of the boundaries, for one network


@dataclass(frozen=True, eq=False)
class Cut:
    """One cut of one network, with what all its inputs share."""

    model: nn.Module
    name: str
    digits: Digits
    reference: Reference
    held_features: Tensor
    held_predicted: Tensor
    cells: Cells

    @classmethod
    def of(cls, model: nn.Module, name: str, digits: Digits, sizes: Sizes, seed: int) -> Cut:
        """Read all images at a cut, and cluster the reference."""
        features = layer_features(model, name, digits.reference)
        predicted = logits_of(model, digits.reference).argmax(dim=1)
        return cls(
            model,
            name,
            digits,
            Reference(digits.reference, labels=digits.reference_labels),
            layer_features(model, name, digits.held_out),
            logits_of(model, digits.held_out).argmax(dim=1),
            Cells.fit(features, predicted, clusters=sizes.clusters, seed=seed),
        )

    def interpret(self, number: int, *, seed: int = 0, exact: bool = False) -> Interpretation:
        """Of a held-out image."""
        x = self.digits.held_out[number]
        return interpret(self.model, x, self.reference, cut=self.name, seed=seed, exact=exact)


def measure_cut(cut: Cut, sizes: Sizes) -> dict[str, Any]:
    """Interpret every input, and score the maps of all methods."""
    begun = time.perf_counter()
    cut.interpret(cut.digits.inputs[0])
    reading = time.perf_counter() - begun  # with the reference's pass through the network
    facts, scores = [], defaultdict(lambda: defaultdict(list))
    same, missing = defaultdict(list), 0
    for number in cut.digits.inputs:
        begun = time.perf_counter()
        found = cut.interpret(number)
        seconds = time.perf_counter() - begun
        others = torch.arange(len(cut.held_predicted)) != number
        distance = found.distance(cut.digits.held_out).masked_fill(~others, torch.inf)
        facts.append(facts_of(cut, number, found, distance < torch.inf, others) | {"seconds": seconds})
        near = distance.argsort(stable=True)[: min(sizes.neighbours, int((distance < torch.inf).sum()))]
        missing += not len(near)
        own = cut.held_features[number][None]
        euclidean = nearest(own, cut.held_features, sizes.neighbours + 1)
        for kind, neighbours in (("semantic", near), ("nearest", euclidean[euclidean != number][: sizes.neighbours])):
            if not len(neighbours):
                continue
            same[kind].append(float((cut.held_predicted[neighbours] == found.label).double().mean()))
            for method, (taken, rows) in score(cut, number, found, neighbours).items():
                scores[kind][method].append({"seconds": taken, "kept": [asdict(row) for row in rows]})
    result: dict[str, Any] = {"cut": cut.name, "shape": list(cut.held_features.shape[1:]), "reading": reading}
    result |= {"facts": facts, "without_neighbours": missing}
    result["same_prediction"] = {kind: fmean(values) for kind, values in same.items()}
    result["maps"] = {
        kind: {method: averaged(rows) for method, rows in methods.items()} for kind, methods in scores.items()
    }
    return result


def facts_of(cut: Cut, number: int, found: Interpretation, covered: Tensor, others: Tensor) -> dict[str, Any]:
    """What is known of one interpretation, and of the k-means cell around the same input."""
    predicted = cut.held_predicted
    held = group(covered[others], predicted[others], found.label)
    cell = group(
        cut.cells.covers(cut.held_features[number][None], cut.held_features[others]), predicted[others], found.label
    )
    masks = []
    for seed in range(SAMPLINGS):
        one = found if seed == 0 else cut.interpret(number, seed=seed)
        masks.append(torch.zeros(len(cut.reference), dtype=torch.bool).index_fill(0, one.members, True))
    facts = {
        "label": found.label,
        "planes": len(found.planes),
        "strangers": found.strangers,
        "coverage": found.coverage,
        "purity": found.purity,
        "held_coverage": held.coverage,
        "held_purity": held.purity,
        "cell_coverage": cell.coverage,
        "cell_purity": cell.purity,
        "exact": found.grades["exact"],
        "segment": found.grades["exact"] + found.grades["segment"],
        "agreement": found.agreement,
        "jaccard": fmean(jaccard(one, other) for one, other in combinations(masks, 2)),
        "gap": cut.interpret(number, exact=True).gap,
    }
    return {name: None if value != value else value for name, value in facts.items()}  # a share of nothing is NaN


def score(cut: Cut, number: int, found: Interpretation, neighbours: Tensor) -> dict[str, tuple[float, list[Any]]]:
    """Seconds and scores of each method's maps of the same neighbours."""
    images, x = cut.digits.held_out[neighbours], cut.digits.held_out[number][None]
    methods: dict[str, Callable[[], Tensor]] = {
        "RI, channel": lambda: found.heatmap(images, maps="channel"),
        "RI, element-wise": lambda: found.heatmap(images, maps="elementwise"),
    }
    for name, peer in peers(cut.cells, seed=number).items():
        methods[name] = lambda peer=peer: peer(cut.model, cut.name, x, images, found.label)
    result = {}
    for name, make in methods.items():
        begun = time.perf_counter()
        maps = make()
        taken = time.perf_counter() - begun
        result[name] = taken, keeping(cut.model, images, maps, found.label, fill=cut.digits.black)
    return result


def averaged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over inputs: mAD and mAI at each share, and seconds."""
    kept = {
        str(share): {key: fmean(row["kept"][place][key] for row in rows) for key in ("drop", "increase")}
        for place, share in enumerate(SHARES)
    }
    return {"seconds": fmean(row["seconds"] for row in rows), "kept": kept}


def measure_seed(seed: int, sizes: Sizes) -> dict[str, Any]:
    """All of one network, and of its sibling with a shortcut."""
    begun = time.perf_counter()
    model, data, seconds = trained(sizes, seed)
    digits = Digits.of(data, sizes, seed)
    accuracy = float((logits_of(model, digits.held_out).argmax(dim=1) == digits.held_out_labels).double().mean())
    weights = sum(weight.numel() for weight in model.parameters())
    result: dict[str, Any] = {"seed": seed, "accuracy": accuracy, "weights": weights, "training": seconds}
    say(seed, f"{accuracy:.1%} of the held-out images are right after {seconds:.0f} s of training")
    deadline = time.monotonic() + sizes.patience
    choice = choose_cut(model, Reference(digits.reference), every=sizes.every_cut, deadline=deadline)
    result["cuts"] = [asdict(row) for row in choice.rows]
    names = {"last": choice.rows[-1].name, "auto": choice.split.name}
    for place, name in names.items():
        result[place] = measure_cut(Cut.of(model, name, digits, sizes, seed), sizes)
        say(seed, f"{place} cut {name} after {time.perf_counter() - begun:.0f} s")
    if seed == 0:
        result["maximum"] = maximum(model, digits, names["last"])
    result["shortcut"] = shortcut(sizes, seed)
    say(seed, f"all after {time.perf_counter() - begun:.0f} s")
    return result


def say(seed: int, what: str) -> None:
    """Progress."""
    print(f"seed {seed}: {what}", flush=True)


def main() -> None:
    """Measure, print, write JSON and the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, help="of training, 2 or more; default: 5")
    parser.add_argument("--json", type=Path, default=Path("representative_interpretation_benchmark.json"))
    parser.add_argument("--render", action="store_true", help="write the page anew from the JSON, measure nothing")
    options = parser.parse_args()
    if options.render:
        write_section("representative_interpretation", report(json.loads(options.json.read_text())))
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DegenerateCutWarning)  # the last cut is measured because it is
    sizes = QUICK if options.quick else FULL
    sizes = replace(sizes, seeds=options.seeds or sizes.seeds)
    begun = time.perf_counter()
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "sizes": asdict(sizes)}
    results["million"] = million(sizes)
    results["linear_head"] = linear_head(sizes, 0)
    results["seeds"] = []
    for seed in range(sizes.seeds):
        results["seeds"].append(measure_seed(seed, sizes))
        results["seconds"] = time.perf_counter() - begun
        write_text(options.json, json.dumps(results, indent=1) + "\n")
    text = report(results)
    print(text)
    if not options.quick:
        write_section("representative_interpretation", text)


if __name__ == "__main__":
    main()
