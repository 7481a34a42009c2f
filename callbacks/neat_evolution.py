"""Evolve the network of a module before it is trained by gradient."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from fulgurite.callbacks.sparse_evolution_picture import draw_network
from fulgurite.models.sparse_network.evolved import evolve_classifier
from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.plugins.files import replacing


class NeatEvolution(pl.Callback):
    """Evolves a classifier with neat-python before training, and hands it to the module to be tuned by gradient.

    NEAT (K. O. Stanley and R. Miikkulainen, "Evolving Neural Networks through Augmenting Topologies",
    `doi:10.1162/106365602320169811 <https://doi.org/10.1162/106365602320169811>`__) finds topology and weights; a whole
    generation is evaluated in one call of :class:`~fulgurite.models.sparse_network.SparsePopulation`. The best genome
    becomes a :class:`~fulgurite.models.sparse_network.SparseNetwork`, every weight and bias of which is trained.

    The module's batches are (features (B, F), labels (B,)); the training part of its data module is evolved on, its
    validation part says how good the evolved network is.

    Logged at each validation: ``neat/start``, accuracy of the evolved network before any gradient, and ``neat/gain``,
    accuracy since gained. ``<log dir>/neat_evolution/network.png`` shows the network. A resumed run evolves
    too, since the checkpoint is not read yet, and then takes the network of the checkpoint.

    Args:
        population: genomes in a generation.
        generations: how many; under ``fast_dev_run`` one.
        connected: share of the connections from inputs to outputs that a first genome has.
        seed: of evolution; torch's and Python's global generators are left as they were.
        network: attribute of the module that takes the network.
        monitor: the logged accuracy that ``neat/gain`` is measured by.

    Raises:
        ImportError: neat-python is not installed.
        ValueError: no data module, or batches of another form.

    Example:
        >>> import lightning.pytorch as pl
        >>> from fulgurite.data.scikit_sample import ScikitSample
        >>> from fulgurite.models.sparse_network.classifier import SparseClassifier
        >>> classifier = SparseClassifier(num_classes=3)
        >>> trainer = pl.Trainer(
        ...     fast_dev_run=True, accelerator="cpu", callbacks=[NeatEvolution(population=20)],
        ...     enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> trainer.fit(classifier, ScikitSample(name="wine"))
        >>> type(classifier.network).__name__, classifier.network.num_inputs
        ('SparseNetwork', 13)
    """

    def __init__(
        self,
        *,
        population: int = 150,
        generations: int = 30,
        connected: float = 0.25,
        seed: int = 0,
        network: str = "network",
        monitor: str = "val/accuracy",
    ) -> None:
        super().__init__()
        if population < 4 or generations < 1:
            raise ValueError(f"got population={population}, generations={generations}; want at least 4 and 1")
        self.population = population
        self.generations = generations
        self.connected = connected
        self.seed = seed
        self.network = network
        self.monitor = monitor
        self._start: float | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.datamodule is None:  # type: ignore[attr-defined]
            raise ValueError("NeatEvolution evolves on a data module's training part; give fit() a LightningDataModule")
        num_classes = getattr(pl_module, "num_classes", None)
        if not isinstance(num_classes, int):
            raise ValueError(
                f"{type(pl_module).__name__} has no num_classes; NeatEvolution needs the number of outputs"
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        # A shuffling loader draws from torch's generator; the run is to be the same with more or fewer generations.
        with torch.random.fork_rng(devices=[]):
            features, labels = _rows(data.train_dataloader())
            held_features, held_labels = _rows(data.val_dataloader())
        generations = 1 if trainer.fast_dev_run else self.generations  # type: ignore[attr-defined]
        rank_zero_info(f"NeatEvolution: {generations} generations of {self.population} networks on {len(labels)} rows")
        found = evolve_classifier(
            features,
            labels,
            num_classes=num_classes,
            population=self.population,
            generations=generations,
            connected=self.connected,
            seed=self.seed,
            progress=_tell,
        )
        setattr(pl_module, self.network, found.network)
        with torch.no_grad():
            right = found.network(held_features).argmax(dim=1) == held_labels
        self._start = float(right.float().mean())
        rank_zero_info(
            f"NeatEvolution: {found.network.num_edges} edges between {found.network.num_nodes} nodes, "
            f"accuracy {self._start:.3f} before any gradient"
        )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every rank has to ask for the log directory: the first one tells it to the others.
        base = trainer.log_dir or trainer.default_root_dir
        network = getattr(pl_module, self.network)
        if not trainer.is_global_zero or trainer.fast_dev_run or not isinstance(network, SparseNetwork):  # type: ignore[attr-defined]
            return
        path = Path(base) / "neat_evolution" / "network.png"
        try:
            with replacing(path) as temporary:
                draw_network(network).savefig(temporary)
        except OSError as error:
            rank_zero_warn(f"NeatEvolution could not write {path}: {error}")

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = trainer.callback_metrics.get(self.monitor)
        if self._start is None or now is None or trainer.sanity_checking:
            return
        pl_module.log("neat/start", self._start, sync_dist=True)
        pl_module.log("neat/gain", float(now) - self._start, sync_dist=True)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = state_dict["start"]


def _tell(generation: int, fitness: float) -> None:
    if generation % 10 == 0:
        rank_zero_info(f"NeatEvolution: generation {generation}, best loss {-fitness:.4f}")


def _rows(loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    """All rows of a loader."""
    batches = list(loader)
    if not batches or not all(
        isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor) for batch in batches
    ):
        raise ValueError("NeatEvolution wants batches of (features (B, F), labels (B,)); the data module gives others")
    features, labels = zip(*batches, strict=True)
    return torch.cat(features).flatten(1), torch.cat(labels)
