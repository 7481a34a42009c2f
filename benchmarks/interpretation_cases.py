"""Cases of benchmarks/representative_interpretation.py with a known answer: a linear head, a cue, many images."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import asdict, replace
from statistics import fmean, median
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
from interpretation_nets import CLASSES, Digits, Sizes, trained
from interpretation_peers import class_activation
from interpretation_scores import group, logits_of
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation import Interpretation, interpret
from fulgurite.callbacks.representative_interpretation.auto_cut import choose_cut
from fulgurite.callbacks.representative_interpretation.boundaries import find_planes
from fulgurite.callbacks.representative_interpretation.cover import greedy_cover
from fulgurite.callbacks.representative_interpretation.cut import Split, candidates, split
from fulgurite.callbacks.representative_interpretation.planes import Planes
from fulgurite.callbacks.representative_interpretation.reference import Reference
from fulgurite.callbacks.representative_interpretation.sampling import Sample
from fulgurite.callbacks.representative_interpretation.strangers import draw_strangers
from fulgurite.callbacks.representative_interpretation.survey import survey
from fulgurite.callbacks.representative_interpretation.untouched import untouched

BOUNDARIES = 50
PATCHED = 8  # the digit of which half have a white square in the corner
# As in the recipe representative_interpretation/shortcut.
SQUARE = {"val_share": 0.4, "test_share": 0.2, "side": 36, "patch_side": 8, "patch_strays": 0.03}
CUT = "network.stage1"
CORNER = 10  # pixels of a side: the square and one pixel of a cut around it


def linear_head(sizes: Sizes, seed: int) -> dict[str, Any]:
    """What is left of 50 boundaries where the network ends in a global average and one linear layer."""
    model, data, _ = trained(sizes, seed, backbone="gap_cnn")
    digits = Digits.of(data, sizes, seed)
    reference = Reference(digits.reference)
    name = candidates(model, digits.reference[:16])[-1]
    parts = split(model, name, digits.reference[:16])
    weight = model.get_submodule("network.head")[-1].weight.detach().double()
    predicted = logits_of(model, digits.held_out).argmax(dim=1)
    rows = []
    for number in digits.inputs[:CLASSES]:
        planes = _sampled(parts, reference, digits.held_out[number][None])
        area = parts.shape[1] * parts.shape[2]
        expected = (weight[planes.label] - weight[planes.rival])[:, :, None, None].expand_as(planes.weight) / area
        found = interpret(model, digits.held_out[number], reference, cut=name)
        held = group(found.covers(digits.held_out), predicted, found.label)
        rows.append(
            {
                "sampled": len(planes),
                "distinct": len(planes.unique()),
                "rivals": len(planes.rival.unique()),
                "deviation": float((planes.weight - expected).abs().max() / expected.abs().max()),
                "exact": planes.share("exact"),
                "coverage": found.coverage,
                "agreement": found.agreement,
                "held_purity": held.purity,
            }
        )
    auto = choose_cut(model, reference, deadline=time.monotonic() + sizes.patience)
    accuracy = float((predicted == digits.held_out_labels).double().mean())
    return {"accuracy": accuracy, "cut": name, "affine": parts.affine, "inputs": rows, "auto": auto.split.name}


def _sampled(parts: Split, reference: Reference, x: Tensor) -> Planes:
    with untouched(parts.model):
        reference.read(parts)
        features, logits = parts.predict(x)
        label = int(logits.argmax())
        drawn = draw_strangers(
            reference.predicted,
            reference.logits,
            label=label,
            count=BOUNDARIES,
            generator=torch.Generator().manual_seed(0),
        )
        return find_planes(
            parts.head,
            features[0],
            reference.take(parts, drawn),
            label=label,
            probes=reference.take(parts, torch.arange(16)),
            seed=0,
            dtype=parts.dtype,
        )


def maximum(model: nn.Module, digits: Digits, last: str) -> dict[str, Any]:
    """The same weights with a maximum in the place of the last mean: boundaries before it and behind it.

    The released code cuts before the last pooling. There, equal values of a dark background tie for the maximum.
    """
    stage, number = last.rsplit(".", 1)
    other = deepcopy(model)
    other.get_submodule(stage)[int(number)] = nn.MaxPool2d(2)
    result = {}
    for place, name in (("before", f"{stage}.{int(number) - 1}"), ("behind", last)):
        reference = Reference(digits.reference)
        found = [interpret(other, digits.held_out[number], reference, cut=name) for number in digits.inputs[:5]]
        result[place] = {
            "cut": name,
            "exact": fmean(one.certificate for one in found),
            "segment": fmean(one.certificate + one.grades["segment"] for one in found),
            "agreement": fmean(one.agreement for one in found),
        }
    return result


def shortcut(sizes: Sizes, seed: int) -> dict[str, Any]:
    """What a report says of a network that learned a planted cue, and where its maps lie."""
    longer = replace(sizes, epochs=sizes.epochs + 1)  # half as many training images
    model, data, _ = trained(longer, seed, patch_class=PATCHED, **SQUARE)
    part = data.part("val")
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[: sizes.held_out]
    images, labels, patched = part.features[chosen], part.labels[chosen], data.patched("val")[chosen]
    square = (..., slice(-data.patch_side, None), slice(-data.patch_side, None))
    pasted = images[(labels != PATCHED) & ~patched].clone()
    pasted[square] = images.max()
    turned = float((logits_of(model, pasted).argmax(dim=1) == PATCHED).double().mean())
    sample = Sample(images, labels, len(images))
    found = survey(model, sample, cut=CUT, class_names=data.class_names, time_budget=sizes.patience, seed=seed)
    groups = []
    for one in found.groups.by_class.get(PATCHED, []):
        groups.append(_corner(model, one, images, patched) | {"fooled": _share(labels[one.members] != PATCHED)})
    wrong = (labels != PATCHED) & (logits_of(model, images).argmax(dim=1) == PATCHED)
    return {
        "turned": turned,
        "area": CORNER**2 / images.shape[-1] ** 2,
        "cut": found.groups.cut,
        "groups": groups,
        "fooled": int(wrong.sum()),
        "fooled_patched": int((wrong & patched).sum()),
        "alarms": [{"kind": clue.kind, "label": clue.label, "text": clue.text} for clue in found.clues],
    }


def _corner(model: nn.Module, one: Interpretation, images: Tensor, patched: Tensor) -> dict[str, Any]:
    """How much of a group's maps lies in the corner, on members that have the square and on others."""
    members, square = images[one.members], patched[one.members]
    assert one.reference_index is not None
    x = images[one.reference_index][None]
    maps = {
        "RI, channel": one.heatmap(members, maps="channel"),
        "RI, element-wise": one.heatmap(members, maps="elementwise"),
        "Grad-CAM, x's weights reused": class_activation(
            model, one.cut, x, members, one.label, method=pytorch_grad_cam.GradCAM, reuse=True
        ),
    }
    mass = {}
    for name, heat in maps.items():
        share = heat[..., -CORNER:, -CORNER:].sum(dim=(1, 2)) / heat.sum(dim=(1, 2)).clamp_min(1e-12)
        both = bool(square.any()) and not bool(square.all())
        mass[name] = {
            "with": _mean(share[square]),
            "without": _mean(share[~square]),
            "auc": float(roc_auc_score(square, share)) if both else None,
        }
    centre = bool(patched[one.reference_index])
    return {"members": len(members), "patched": _share(square), "centre": centre, "mass": mass}


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def million(sizes: Sizes) -> dict[str, Any]:
    """The greedy cover of very many images and 50 planes."""
    off, own = _many(sizes.images, BOUNDARIES)
    greedy_cover(off[:1000], own[:1000])  # compiled now, if it was not before
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        cover = greedy_cover(off, own)
        taken.append(time.perf_counter() - begun)
    print(f"greedy cover of {len(own):,} images: {median(taken):.3f} s", flush=True)
    return {"images": len(own), "planes": BOUNDARIES, "seconds": taken, "cover": asdict(cover), "own": int(own.sum())}


def _many(images: int, planes: int, *, axes: int = 16) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """On which side of planes images of ten clouds lie, the planes halfway from the first cloud to points of others."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 3, (CLASSES, axes)).astype(np.float32)
    label = rng.integers(0, CLASSES, images)
    points = centres[label] + rng.standard_normal((images, axes), dtype=np.float32)
    x, ends = centres[0], points[np.flatnonzero(label)[:planes]]
    normals = x - ends
    values = points @ normals.T - ((x + ends) / 2 * normals).sum(axis=1)
    return values < 0, label == 0
