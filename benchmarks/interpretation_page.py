"""RepresentativeInterpretation's part of docs/benchmarks.md, from what its script measured."""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean, median, stdev
from typing import Any

from interpretation_scores import SHARES, paired_interval
from scipy.stats import t
from tables import markdown

GRAD_CAM = "Grad-CAM, x's weights reused"
OURS = ("RI, channel", "RI, element-wise")
RIVALS = (GRAD_CAM, "Grad-CAM++, x's weights reused", "Score-CAM, x's weights reused", "Score-CAM, own weights")
PLACES = {"last": "last cut", "auto": "auto's cut"}
KINDS = {"semantic": "semantic rank", "nearest": "nearest in the cut's space"}
PAPER = (
    ("ASIRRA", "2.00 / 30.72", "2.30 / 32.90", "3.07 / 29.12", "3.72 / 28.10", "36.27 / 1.36"),
    ("GC", "12.70 / 6.12", "23.01 / 4.40", "29.53 / 3.46", "23.88 / 3.30", "46.37 / 2.26"),
    ("RO", "12.57 / 27.54", "35.34 / 22.02", "21.04 / 23.24", "14.12 / 25.60", "65.36 / 4.44"),
    ("FOOD", "8.08 / 26.66", "9.22 / 23.34", "9.04 / 22.14", "10.44 / 19.56", "39.88 / 24.80"),
)


def report(results: dict[str, Any]) -> str:
    """The page's section."""
    seeds, sizes = results["seeds"], results["sizes"]
    parts = [
        "## RepresentativeInterpretation",
        f"`python benchmarks/representative_interpretation.py`, {results['date']}, {results['seconds']:.0f} s. "
        f"{results['machine']}.",
        _setting(seeds, sizes),
        "### Against what was aimed at",
        markdown(("aim", "measured", ""), _aims(results)),
        "### Interpretations",
        _facts(seeds),
        "### What each cut says",
        "Medoids of the six largest classes, reference images; the first of several cuts that `auto` asks is the last.",
        _cuts(seeds),
        *_maps(seeds),
        "### RI minus its rivals, the same neighbours, 20 % of the pixels kept",
        "Mean difference of mAD in points with its paired 95 % interval over seeds; below 0, RI loses less of the "
        "prediction. The share is of the rival's mAD.",
        _paired(seeds),
        "### The paper's table, as quoted",
        "mAD ↓ / mAI ↑ in per cent at 20 % of the pixels, VGG-19, from P. C.-H. Lam et al., "
        "[arXiv:2108.06384](https://arxiv.org/abs/2108.06384). Other data, another network, and neighbours that differ "
        "by method (semantic rank for RI, Euclidean for the others): **quoted, not reproduced**.",
        markdown(("data", "RI", "Grad-CAM", "Grad-CAM++", "Score-CAM", "ACE"), PAPER),
        "### A planted shortcut",
        _shortcut(seeds, sizes),
        "### A network that ends in a global average and one linear layer",
        _linear_head(results["linear_head"]),
        "### Greedy cover of very many images",
        _million(results["million"]),
    ]
    return "\n\n".join(parts)


def _setting(seeds: Sequence[dict[str, Any]], sizes: dict[str, Any]) -> str:
    chosen = Counter(seed["auto"]["cut"] for seed in seeds)
    auto = ", ".join(f"{name} in {count}" for name, count in sorted(chosen.items()))
    return (
        f"MNIST5k, {sizes['reference']:,} reference images (those trained on), {sizes['held_out']:,} held out; "
        f"`small_cnn` with {seeds[0]['weights']:,} weights, {sizes['epochs']} epochs, "
        f"{_plus_minus([seed['accuracy'] for seed in seeds])} % right on held-out images. {len(seeds)} training seeds, "
        "each with a split, a start and an order of its own; figures are the mean over seeds ± half of the 95 % "
        f"t interval. In each seed {len(seeds[0]['last']['facts'])} held-out inputs, of as many digits, 50 boundaries, "
        f"maps on {sizes['neighbours']} held-out neighbours; pixels that are not kept become black. Two cuts: the "
        f"last one, `{seeds[0]['last']['cut']}` (behind activation and pooling), and the one that `auto` chose: {auto} "
        f"of {len(seeds)} seeds. **All methods explain the same inputs at the same cut, on the same neighbours**: the "
        "first by RI's semantic rank among held-out images (they are covered), and for control the nearest in the "
        "cut's space, of whatever class."
    )


def _aims(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    seeds = results["seeds"]
    rows: list[tuple[str, str, bool]] = []

    def over(place: str, name: str, mean: Callable[[list[float]], float] = fmean) -> list[float]:
        return [mean(values) for seed in seeds if (values := _known(seed[place]["facts"], name))]

    exact, segment = over("last", "exact"), over("auto", "segment")
    rows.append(("last cut: every boundary certified exact", f"{_plus_minus(exact)} %", min(exact) == 1))
    purity, gap = over("last", "held_purity"), over("last", "gap")
    rows.append(("last cut: held-out purity ≥ 98 %", f"{_plus_minus(purity)} %", fmean(purity) >= 0.98))
    worst = max(over("last", "gap", max))
    rows.append(
        (
            "last cut: greedy within 1 % of the optimum",
            f"{_plus_minus(gap, digits=2)} % below, worst {worst:.2%}",
            worst <= 0.01,
        )
    )
    rows.append(
        ("auto's cut: all at least certified along their segment", f"{_plus_minus(segment)} %", min(segment) == 1)
    )
    for ours, aim in zip(OURS, (0.2, 0.4), strict=True):
        for place, name in PLACES.items():
            less = _less(seeds, place, "semantic", ours, GRAD_CAM)
            rows.append(
                (
                    f"{name}: mAD of {ours} ≥ {aim:.0%} below Grad-CAM's reuse",
                    f"{abs(less):.0%} {'below' if less > 0 else 'above'} ({_difference(seeds, place, ours)})",
                    less >= aim,
                )
            )
    for place, name in PLACES.items():
        seconds = over(place, "seconds")
        rows.append(
            (f"{name}: ≤ 0.3 s an input", f"{_plus_minus(seconds, scale=1, digits=2)} s", fmean(seconds) <= 0.3)
        )
    taken = median(results["million"]["seconds"])
    rows.append((f"greedy over {results['million']['images']:,} images ≤ 1 s", f"{taken:.2f} s", taken <= 1))
    cases = [seed["shortcut"] for seed in seeds]
    alarmed = sum(any(alarm["label"] == 8 for alarm in case["alarms"]) for case in cases)
    rows.append(("shortcut: an alarm about its group", f"{alarmed} of {len(cases)} seeds", alarmed == len(cases)))
    mass = [case["groups"][0]["mass"]["RI, element-wise"]["with"] for case in cases if case["groups"]]
    mass = [value for value in mass if value is not None]
    share = f"{_plus_minus(mass)} % in {cases[0]['area']:.1%} of the picture" if mass else "no member"
    rows.append(
        ("shortcut: most of its group's element-wise map in the corner", share, bool(mass) and fmean(mass) > 0.5)
    )
    return [(aim, measured, "met" if met else "**missed**") for aim, measured, met in rows]


def _facts(seeds: Sequence[dict[str, Any]]) -> str:
    lines = (
        ("planes chosen, of 50", "planes", 1, 1),
        ("own reference images covered, %", "coverage", 100, 1),
        ("strangers covered", "strangers", 1, 1),
        ("held-out coverage, %", "held_coverage", 100, 1),
        ("held-out purity, %", "held_purity", 100, 1),
        ("k-means cell around the same input: held-out coverage, %", "cell_coverage", 100, 1),
        ("k-means cell: held-out purity, %", "cell_purity", 100, 1),
        ("certified exact, %", "exact", 100, 1),
        ("certified at least along the segment, %", "segment", 100, 1),
        ("sign agreement of the planes with the network, %", "agreement", 100, 1),
        ("Jaccard of the covered sets, 3 sampling seeds", "jaccard", 1, 3),
        ("greedy below the optimum, %", "gap", 100, 2),
        ("seconds an input", "seconds", 1, 3),
    )
    rows = []
    for title, name, scale, digits in lines:
        cells = []
        for place in PLACES:
            values = [fmean(known) for seed in seeds if (known := _known(seed[place]["facts"], name))]
            cells.append(_plus_minus(values, scale=scale, digits=digits))
        rows.append((title, *cells))
    reading = [_plus_minus([seed[place]["reading"] for seed in seeds], scale=1, digits=2) for place in PLACES]
    rows.append(("seconds to read the reference, once, with the first input", *reading))
    gaps = [gap for seed in seeds for place in PLACES for gap in (fact["gap"] for fact in seed[place]["facts"])]
    unproven = sum(gap is None for gap in gaps)
    note = f"The optimum was not proven in time for {unproven} of {len(gaps)} inputs; they are left out of the gap. "
    note = note if unproven else "The optimum was proven for every input. "
    before, behind = (seeds[0]["maximum"][place] for place in ("before", "behind"))
    note += (
        "Why to cut *behind* pooling: with a maximum in the place of the last mean (same weights, first seed, 5 "
        f"inputs), {before['exact']:.0%} of the boundaries before it are certified exact and {before['segment']:.0%} "
        f"at least along the segment, sign agreement {before['agreement']:.1%}; behind it {behind['exact']:.0%}, "
        f"{behind['segment']:.0%} and {behind['agreement']:.1%}."
    )
    table = markdown(("", *PLACES.values()), rows)
    return f"{table}\n\n{note}"


def _cuts(seeds: Sequence[dict[str, Any]]) -> str:
    chosen = Counter(seed["auto"]["cut"] for seed in seeds)
    rows = []
    for number, row in enumerate(seeds[0]["cuts"]):
        cells = []
        for name, scale in (("coverage", 100), ("purity", 100), ("planes", 1), ("exact", 100)):
            known = [value for seed in seeds if (value := seed["cuts"][number][name]) is not None]
            cells.append(_plus_minus(known, scale=scale) if known else "–")
        shape = "×".join(map(str, row["shape"] or ()))
        rows.append((f"`{row['name']}`", shape, *cells, chosen[row["name"]]))
    head = ("cut", "shape", "own covered, %", "purity, %", "planes", "certified exact, %", "chosen by auto, seeds")
    return markdown(head, rows)


def _maps(seeds: Sequence[dict[str, Any]]) -> list[str]:
    parts = []
    for place, title in PLACES.items():
        maps = seeds[0][place]["maps"]["semantic"]
        for key, name in (("drop", "mAD ↓"), ("increase", "mAI ↑")):
            best = 1 if key == "drop" else -1
            order = sorted(maps, key=lambda method: best * fmean(_kept(seeds, place, "semantic", method, 0.2, key)))
            head = ["method", *(f"{share:.0%} kept" for share in SHARES), "20% kept, control"]
            head += ["s for the maps"] if key == "drop" else []
            rows = []
            for method in order:
                cells = [_plus_minus(_kept(seeds, place, "semantic", method, share, key)) for share in SHARES]
                cells.append(_plus_minus(_kept(seeds, place, "nearest", method, 0.2, key)))
                if key == "drop":
                    cells.append(f"{fmean(seed[place]['maps']['semantic'][method]['seconds'] for seed in seeds):.2f}")
                rows.append((f"**{method}**" if method in OURS else method, *cells))
            parts += [f"### {name} in per cent, {title}", markdown(head, rows)]
    same = {
        (place, kind): fmean(seed[place]["same_prediction"][kind] for seed in seeds)
        for place in PLACES
        for kind in KINDS
    }
    said = "; ".join(f"{PLACES[place]}, {KINDS[kind]}: {value:.0%}" for (place, kind), value in same.items())
    none = sum(seed[place]["without_neighbours"] for seed in seeds for place in PLACES)
    parts.append(f"Share of the neighbours that are predicted as the input: {said}. Inputs without neighbours: {none}.")
    return parts


def _paired(seeds: Sequence[dict[str, Any]]) -> str:
    head = ["", *(f"{title}, {kind}" for title in PLACES.values() for kind in KINDS.values())]
    rows = []
    for ours in OURS:
        for rival in RIVALS:
            cells = []
            for place in PLACES:
                for kind in KINDS:
                    mine, theirs = (_kept(seeds, place, kind, name, 0.2, "drop") for name in (ours, rival))
                    mean, low, high = (100 * value for value in paired_interval(mine, theirs))
                    less = -_less(seeds, place, kind, ours, rival)
                    cells.append(f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), {less:+.0%}")
            rows.append((f"{ours} − {rival}", *cells))
    return markdown(head, rows)


def _shortcut(seeds: Sequence[dict[str, Any]], sizes: dict[str, Any]) -> str:
    cases = [seed["shortcut"] for seed in seeds]
    groups = [group for case in cases for group in case["groups"]]
    if not groups:
        return "No image was predicted as an eight."
    first = [case["groups"][0] for case in cases if case["groups"]]
    members = sum(group["members"] for group in groups)
    major = sum(max(group["patched"], 1 - group["patched"]) * group["members"] for group in groups) / members
    every = sum(group["patched"] * group["members"] for group in groups) / members
    text = (
        "As in the recipe `representative_interpretation/shortcut`: images of 36 × 36 pixels, of which half of the "
        "eights have a white 8 × 8 square in the lower right corner, and so have 3 % of the other digits in the "
        f"validation part, on which groups are found (cut `{cases[0]['cut']}`, {sizes['held_out']:,} images, up to "
        "3 groups a class). Pasting the square into other digits makes "
        f"{_plus_minus([case['turned'] for case in cases])} % of them eights. Of "
        f"{fmean(case['fooled'] for case in cases):.1f} other digits that the network takes for an "
        f"eight, {fmean(case['fooled_patched'] for case in cases):.1f} have the square; other digits are "
        f"{_plus_minus([group['fooled'] for group in first])} % of the eights' first group. The report raises the "
        f"alarm *mixes true classes* for the eights in {_alarms(cases, 'mixed')} of {len(cases)} seeds and *decided "
        f"in one spot* in {_alarms(cases, 'spot')}; "
        f"{fmean(sum(alarm['label'] != 8 for alarm in case['alarms']) for case in cases):.1f} alarms a seed are about "
        f"other digits. Do groups part square from no square? {major:.0%} of the members are in the majority of their "
        f"group; that of all groups together holds {max(every, 1 - every):.0%}. Mass of the maps in the corner's 10 × "
        f"10 pixels, {cases[0]['area']:.1%} of the picture, in the eights' first group; *AUC*: how well "
        "that mass alone tells members with the square from those without:"
    )
    rows = []
    for method in first[0]["mass"]:
        cells = [
            [value for group in first if (value := group["mass"][method][key]) is not None]
            for key in ("with", "without", "auc")
        ]
        rows.append(
            (
                method,
                *(_plus_minus(values) if values else "" for values in cells[:2]),
                _plus_minus(cells[2], scale=1, digits=3) if cells[2] else "",
            )
        )
    table = markdown(("map", "with the square, %", "without it, %", "AUC"), rows)
    return f"{text}\n\n{table}"


def _alarms(cases: Sequence[dict[str, Any]], kind: str) -> int:
    """In how many seeds the eights have such an alarm."""
    return sum(any(alarm["kind"] == kind and alarm["label"] == 8 for alarm in case["alarms"]) for case in cases)


def _linear_head(case: dict[str, Any]) -> str:
    rows = case["inputs"]
    counts = [row["distinct"] for row in rows]
    return (
        f"`gap_cnn`, one training, {case['accuracy']:.1%} right on held-out images. Behind `{case['cut']}` it is "
        f"{'affine' if case['affine'] else 'not affine'}: of 50 sampled boundaries {min(counts)} to {max(counts)} are "
        f"distinct (mean {fmean(counts):.1f}, {len(rows)} inputs), one for each of the "
        f"{fmean(row['rivals'] for row in rows):.1f} rivals that were met, and each is (w_c − w_j) spread over the "
        f"map, to {max(row['deviation'] for row in rows):.1g} of its largest weight. An interpretation covers "
        f"{fmean(row['coverage'] for row in rows):.1%} of its class, held-out purity "
        f"{fmean(_known(rows, 'held_purity')):.1%}. `auto` goes on to `{case['auto']}`."
    )


def _million(case: dict[str, Any]) -> str:
    taken = case["seconds"]
    return (
        f"{case['images']:,} images × {case['planes']} planes, ten Gaussian clouds, packing of the bits included, one "
        f"thread: {median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f}, {len(taken)} runs); "
        f"{len(case['cover']['planes'])} planes chosen, {case['cover']['own']:,} of {case['own']:,} own images and "
        f"{case['cover']['strangers']:,} strangers covered."
    )


def _kept(seeds: Sequence[dict[str, Any]], place: str, kind: str, method: str, share: float, key: str) -> list[float]:
    return [seed[place]["maps"][kind][method]["kept"][str(share)][key] for seed in seeds]


def _less(seeds: Sequence[dict[str, Any]], place: str, kind: str, ours: str, rival: str) -> float:
    mine, theirs = (fmean(_kept(seeds, place, kind, name, 0.2, "drop")) for name in (ours, rival))
    return 1 - mine / theirs


def _difference(seeds: Sequence[dict[str, Any]], place: str, ours: str) -> str:
    mine, theirs = (_kept(seeds, place, "semantic", name, 0.2, "drop") for name in (ours, GRAD_CAM))
    mean, low, high = (100 * value for value in paired_interval(mine, theirs))
    return f"{mean:+.1f} points, {low:+.1f} to {high:+.1f}"


def _known(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _plus_minus(values: Sequence[float], *, scale: float = 100, digits: int = 1) -> str:
    """Mean ± half of the 95 % t interval."""
    mean = f"{scale * fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean} ± {scale * half:.{digits}f}"
