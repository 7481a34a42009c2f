"""What is learned, against a static GCN and networks without a graph, over three seeds: for dynamic_gnn.py.

A cell is one training: a case, a network, a learning rate and a seed. For each network the learning rate is the one
whose validation is best for a seed that is not among the three; it then runs with each of these. Everybody has the same
epochs, and counts by the weights of the epoch with the best validation, looked at every tenth. A finished cell is kept
in a file and never run again, unless its settings have changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from dynamic_gnn_cases import AMLSIM, TENNIS, options_of

from fulgurite.data import TemporalGraph
from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.models import dynamic_gnn
from fulgurite.plugins.files import write_text

SEEDS = (4, 5, 6)
LATER_SEEDS = (7, 8, 9)
TUNING_SEED = 3
RATES = (0.01, 0.03, 0.1)
LOOK_EVERY = 10
RHYTHM = {"num_nodes": 1000, "num_steps": 60, "events_per_step": 200, "recurrence": 0.8, "cycles_per_step": 0}
RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "dynamic_gnn"


@dataclass(frozen=True)
class Method:
    """A network by its name and options; a baseline may have a window of its own."""

    name: str
    network: str
    baseline: bool = True
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    wide: bool = False


METHODS = (
    Method("CD-GCN", "CDGCN", baseline=False),
    Method("static GCN", "StaticGCN"),
    Method("static GCN, wide window", "StaticGCN", wide=True),
    Method("no graph", "NoGraph"),
    Method("no graph, with memory", "NoGraph", options={"memory": True}),
)


@dataclass(frozen=True)
class Case:
    """A recipe's data and module, with any network in the place of its own.

    Attributes:
        name: as in the table.
        recipe: whose settings are taken.
        wide: edge life of the static GCN that is given a wide window.
        metrics: of the test; the first is what counts, and validation's what chooses.
        data: options of the data in place of the recipe's.
        model: options of the module in place of the recipe's.
        epochs: in place of the recipe's.
        seeds: other ones where the recipe was changed after the first were seen.
    """

    name: str
    recipe: str
    wide: int
    metrics: tuple[str, ...] = ("ap", "auroc")
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)
    model: Mapping[str, Any] = field(default_factory=dict, hash=False)
    epochs: int | None = None
    seeds: tuple[int, ...] = SEEDS

    def settings(self, method: Method, rate: float) -> dict[str, Any]:
        """All that a training depends on, beside its seed."""
        recipe = yaml.safe_load((RECIPES / f"{self.recipe}.yaml").read_text(encoding="utf-8"))
        options = recipe["model"]["init_args"]
        network = options.pop("network")["init_args"]
        data = recipe["data"]["init_args"] | dict(self.data)
        own = options_of(method.network)
        return {
            "network": method.network,
            "hidden": network.get("hidden_channels", [6, 6]),
            "options": own | dict(method.options),
            "module": recipe["model"]["class_path"],
            "model": options | dict(self.model) | {"learning_rate": rate},
            "data": data | {"m_window": own.get("window", 1)} | ({"edge_life": self.wide} if method.wide else {}),
            "epochs": self.epochs or recipe["trainer"]["max_epochs"],
            "metrics": self.metrics,
        }


def cases(quick: bool) -> list[Case]:
    """Those whose data are there."""
    ranked = ("map", "mrr", "ap", "auroc")
    if quick:
        small = {"num_nodes": 200, "num_steps": 15, "events_per_step": 40}
        return [Case("generator, links", "link_prediction", 15, ranked, {"generator": small}, epochs=2)]
    found = [Case("generator, laundering accounts", "laundering", 60)]
    if AMLSIM.exists():
        found.insert(0, Case("AMLSim, laundering accounts", "amlsim", 15, data={"root": str(AMLSIM)}))
    found.append(Case("generator, links: money is passed on", "link_prediction", 30, ranked, seeds=LATER_SEEDS))
    found.append(
        Case(
            "generator, links: a rhythm alone; linear head",
            "link_prediction",
            10,
            ranked,
            data={"edge_life": 2, "symmetrise": False, "generator": RHYTHM},
            model={"head": "linear"},
            epochs=100,
        )
    )
    if TENNIS.exists():
        tennis = {"root": str(TENNIS)}
        found.append(Case("Twitter tennis, who is mentioned", "tennis", 10, data=tennis, seeds=LATER_SEEDS))
    return found


class Cells:
    """Results of trainings, kept in a file of one JSON object a line.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self._found = {cell["key"]: cell for cell in map(json.loads, lines)}

    def __call__(self, case: Case, method: Method, rate: float, seed: int) -> dict[str, Any]:
        """What the training gave, now or before."""
        settings = case.settings(method, rate)
        # Files lie elsewhere on another machine and are the same.
        known = settings | {"data": {k: v for k, v in settings["data"].items() if k != "root"}, "seed": seed}
        key = f"{case.recipe}:{hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]}"
        if key not in self._found:
            begun = time.perf_counter()
            result = train(settings, seed)
            result |= {"seconds": round(time.perf_counter() - begun, 1)}
            self._found[key] = {
                "key": key,
                "case": case.name,
                "method": method.name,
                "rate": rate,
                "seed": seed,
                **result,
            }
            print("learning", json.dumps(self._found[key]), flush=True)
            if self.path is not None:
                write_text(self.path, "".join(json.dumps(cell) + "\n" for cell in self._found.values()))
        return self._found[key]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices that Lightning gives of every training."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@quiet()
def measure(quick: bool, cells: Path | None) -> dict[str, Any]:
    """Every case, network and seed under the same budget of epochs."""
    rates = RATES[:1] if quick else RATES
    run, found = Cells(cells), []
    for case in cases(quick):
        rows: dict[str, dict[str, Any]] = {}
        seeds = case.seeds[:1] if quick else case.seeds
        for method in METHODS:
            tuned = {rate: run(case, method, rate, TUNING_SEED)["val"] for rate in rates} if len(rates) > 1 else {}
            rate = max(tuned, key=lambda rate: tuned[rate]) if tuned else rates[0]
            runs = [run(case, method, rate, seed) for seed in seeds]
            scores = {metric: [cell["test"][metric] for cell in runs] for metric in case.metrics}
            rows[method.name] = {"baseline": method.baseline, "rate": rate, "scores": scores}
        settings = case.settings(METHODS[0], rates[0])
        about = {"name": case.name, "recipe": case.recipe, "wide": case.wide, "seeds": seeds, "rows": rows}
        found.append(about | {"epochs": settings["epochs"], "life": settings["data"]["edge_life"]})
    return {"cases": found, "rates": rates, "tuning_seed": TUNING_SEED, "look_every": LOOK_EVERY}


class _Best(pl.Callback):
    """Keeps the weights of the best validation in memory."""

    def __init__(self, metric: str) -> None:
        self.metric, self.value, self.epoch = metric, -1.0, -1
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.metric])
        if value > self.value:
            self.value, self.epoch = value, trainer.current_epoch + 1
            self.weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}


def train(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Validation's best, after which epoch, and the test of those weights."""
    options = dict(settings["data"])
    if isinstance(generator := options.get("generator"), dict):
        options["generator"] = TransactionGraph(**generator)
    data = TemporalGraph(**options)
    data.setup()
    pl.seed_everything(seed, verbose=False)
    channels = data.part("train").num_features
    network = getattr(dynamic_gnn, settings["network"])(channels, settings["hidden"], **settings["options"])
    # Links draw their negatives by the seed too.
    drawn = {"seed": seed} if settings["module"] == "DynamicLinkPredictor" else {}
    module = getattr(dynamic_gnn, settings["module"])(network, **settings["model"], **drawn)
    metrics = settings["metrics"]
    best = _Best(f"val/{metrics[0]}")
    trainer = pl.Trainer(
        max_epochs=settings["epochs"],
        check_val_every_n_epoch=min(LOOK_EVERY, settings["epochs"]),
        num_sanity_val_steps=0,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best],
    )
    trainer.fit(module, data)
    module.load_state_dict(best.weights)
    scores = trainer.test(module, data, verbose=False)[0]
    return {
        "val": best.value,
        "epoch": best.epoch,
        "test": {metric: float(scores[f"test/{metric}"]) for metric in metrics},
    }
