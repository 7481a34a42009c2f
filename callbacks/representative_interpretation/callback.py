"""The Lightning callback: what a Trainer's hooks mean to passes over the network's predictions."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.callbacks.representative_interpretation.clues import Clue, GroupAlarm
from fulgurite.callbacks.representative_interpretation.drift import Snapshot
from fulgurite.callbacks.representative_interpretation.heatmap import Maps
from fulgurite.callbacks.representative_interpretation.publish import log_to, scalars, show
from fulgurite.callbacks.representative_interpretation.report import draw, write_report
from fulgurite.callbacks.representative_interpretation.sampling import Reservoir, Sample, check_images, read_batch
from fulgurite.callbacks.representative_interpretation.survey import Survey, survey
from fulgurite.callbacks.seqpoint.publish import can_write

VERSION = 1
_SHARDED = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")


class RepresentativeInterpretation(pl.Callback):
    """Shows what a classifier's many similar predictions share, while it is trained and when it is done.

    After P. C.-H. Lam et al., "Finding Representative Interpretations on Convolutional Neural Networks",
    https://arxiv.org/abs/2108.06384. Predictions on a sample of validation images are gathered into groups that the
    network decides alike (:func:`~fulgurite.callbacks.representative_interpretation.interpret_classes`). A light pass,
    one group a class, is made after validation every ``every_n_epochs`` epochs; a full pass when training ends, or in
    ``trainer.validate``.

    The images are a uniform sample of the first whole validation epoch's batches, copied as the module gets them, so no
    loader is read a second time; a part of them is held out, to test groups on. All passes of a run look at the same
    images. Without a validation loop they come from the first training epoch.

    Two *alarms* say which groups to look at: one whose members have several true classes, and one that hangs on a
    small spot of the picture, where many members and few others have the same pixels, which make other images into its
    class when pasted into them. They are on the page, in the numbers and, after a full pass, warnings.

    The report lies in ``<log dir>/representative_interpretation/``: ``report.html``, ``groups.json``, ``groups.png``
    and ``history.png``, rewritten by every pass. Pictures go to TensorBoard and Weights & Biases and numbers, as
    ``representative_interpretation/...``, to every logger and to ``trainer.callback_metrics``, where checkpoints can
    monitor them; a table is printed at the end. Weights, statistics of BatchNorm, random numbers, gradients and modes
    are the same with and without this callback, and nothing that goes wrong with a pass stops the training.

    With several processes the first one does all of it, on its own share of the validation images; the others wait, so
    ``time_budget`` has to stay well below the process group's timeout. Strategies that shard parameters are left alone,
    with a warning. Under ``fast_dev_run`` nothing happens at all.

    Args:
        reference: how many images groups are found on.
        held_out: how many others they are tested on, at most a quarter of all.
        cut: the module behind which the network is cut, or ``auto``: the last cut that says more than the predicted
            class. Light passes keep to the first one's choice, so that they can be compared.
        boundaries: boundaries sampled for each group; the paper's number.
        groups_per_class: groups of a predicted class in a full pass.
        max_classes: interpret the predicted classes of the most images, so many at most.
        every_n_epochs: make light passes every so many epochs; 0: none.
        time_budget: seconds that a full pass may take, and four times what a light one may; what it leaves no time for
            is left out, with a note. A group that has been begun is finished.
        maps: kind of heat maps: ``channel``, the paper's, or ``elementwise``.
        network: name of the submodule that makes logits out of images; ``None``: the module itself, by ``forward``.
        images_fn: from a batch, as the module's step gets it, to the images (B, C, H, W) that the network gets, or to
            images and true classes (B,); ``None`` finds them in tensors, tuples and mappings.
        logits_fn: from the network's output to logits (B, C), where it is not a tensor.
        class_names: names of classes, by number; ``None``: the data module's ``class_names`` or ``classes``, if any.
        alarm: a group is mixed if fewer than this share of its members have its commonest true label.
        folder: where to write; ``None``: ``<log dir>/representative_interpretation``.
        seed: of the private random numbers.

    Raises:
        ValueError: an option cannot be; the module has neither ``forward`` nor the submodule ``network``.

    Example:
        >>> import contextlib, io, tempfile
        >>> from torch.nn import functional as F
        >>> class Classifier(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        ...         self.head = nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 2))
        ...     def forward(self, images):
        ...         return self.head(self.body(images))
        ...     def training_step(self, batch, batch_idx):
        ...         return F.cross_entropy(self(batch[0]), batch[1])
        ...     def validation_step(self, batch, batch_idx):
        ...         self(batch[0])
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters(), lr=1e-2)
        >>> warnings.filterwarnings("ignore", ".*does not have many workers")
        >>> images = torch.rand(160, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> labels = (images[:, 0, :4].mean((1, 2)) > images[:, 0, 4:].mean((1, 2))).long()
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=32)
        >>> interpretation = RepresentativeInterpretation(boundaries=10, alarm=0.0)
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        ...     trainer = pl.Trainer(
        ...         max_epochs=2, accelerator="cpu", default_root_dir=folder, callbacks=[interpretation], logger=False,
        ...         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...     )
        ...     trainer.fit(Classifier(), loader, loader)
        ...     written = sorted(path.name for path in interpretation.report.parent.iterdir())
        >>> written
        ['groups.json', 'groups.png', 'history.png', 'report.html']
        >>> [snapshot.kind for snapshot in interpretation.history], "Own images covered" in printed.getvalue()
        (['light', 'light', 'full'], True)
        >>> 0.5 < trainer.callback_metrics["representative_interpretation/coverage"] <= 1
        tensor(True)
    """

    def __init__(
        self,
        *,
        reference: int = 512,
        held_out: int = 256,
        cut: str = "auto",
        boundaries: int = 50,
        groups_per_class: int = 3,
        max_classes: int = 20,
        every_n_epochs: int = 1,
        time_budget: float = 60.0,
        maps: Maps = "channel",
        network: str | None = None,
        images_fn: Callable[[Any], Tensor | tuple[Tensor, Tensor]] | None = None,
        logits_fn: Callable[[Any], Tensor] | None = None,
        class_names: Sequence[str] | None = None,
        alarm: float = 0.9,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if maps not in ("channel", "elementwise"):
            raise ValueError(f"got maps={maps!r}; expected 'channel' or 'elementwise'")
        counts = {"boundaries": boundaries, "groups_per_class": groups_per_class, "max_classes": max_classes}
        for name, count, least in (
            ("reference", reference, 8),
            ("held_out", held_out, 0),
            ("every_n_epochs", every_n_epochs, 0),
            *((name, count, 1) for name, count in counts.items()),
        ):
            if count < least:
                raise ValueError(f"got {name}={count}; expected at least {least}")
        if not time_budget > 0:
            raise ValueError(f"got time_budget={time_budget}; expected seconds, more than 0")
        if not 0 <= alarm <= 1:
            raise ValueError(f"got alarm={alarm}; expected a share from 0 (never) to 1 (any other label)")
        for name, function in (("images_fn", images_fn), ("logits_fn", logits_fn)):
            if function is not None and not callable(function):
                raise ValueError(f"got {name}={function!r}; expected a function, or None")
        self.reference = reference
        self.held_out = held_out
        self.cut = cut
        self.every_n_epochs = every_n_epochs
        self.time_budget = time_budget
        self.network = network
        self.images_fn = images_fn
        self.class_names = class_names
        self.folder = folder
        self.seed = seed
        self._options: dict[str, Any] = {**counts, "maps": maps, "alarm": alarm, "logits": logits_fn, "seed": seed}
        self._forget()

    def _forget(self) -> None:
        """Be as before the first run."""
        self.survey: Survey | None = None
        self.report: Path | None = None
        self.history: list[Snapshot] = []
        self._active = False
        self._blind = False
        self._reservoir: Reservoir | None = None
        self._sample: Sample | None = None
        self._held_out: Sample | None = None
        self._light_cut: str | None = None
        self._last_epoch = -1
        self._where: Path | None = None
        self._notes: list[str] = []
        self._to_show = False

    @property
    def alarms(self) -> tuple[Clue, ...]:
        """Which groups of the last pass to look at, and why."""
        return self.survey.clues if self.survey is not None else ()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage not in ("fit", "validate"):
            return
        # A callback may serve several runs, one after another.
        self._forget()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if type(trainer.strategy).__name__ in _SHARDED:
            rank_zero_warn(
                f"RepresentativeInterpretation does nothing under {type(trainer.strategy).__name__}, which splits "
                "parameters between processes: no process could run the network alone"
            )
            return
        if self.network is None and not is_overridden("forward", pl_module, parent=pl.LightningModule):
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"{type(pl_module).__name__} has no forward, so RepresentativeInterpretation cannot run it; define "
                f"forward(images), or name the part that does, network=… (it has {children or 'no parts'})"
            )
        self._network(pl_module)
        self._active = True

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._find_folder(trainer)
        if self._active and trainer.is_global_zero and not trainer.enable_validation:
            self._reservoir = self._new_reservoir()
            self._notes.append("without a validation loop the images are training images, as the module got them")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.enable_validation:
            self._offer(batch)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.enable_validation:
            self._take_sample()
            self._pass_if_due(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._find_folder(trainer)
        if self._active and trainer.is_global_zero and self._sample is None and not self._blind:
            self._reservoir = self._new_reservoir()

    @override
    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Of several loaders the first one is sampled: others may hold images of another kind.
        if not trainer.sanity_checking and dataloader_idx == 0:
            self._offer(batch)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._take_sample()
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._pass(trainer, pl_module, full=True)
        else:
            self._pass_if_due(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not on_fit_end: by then the module is on the CPU and loggers are gone.
        self._pass(trainer, pl_module, full=True)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Here, because progress bars are gone by now.
        if self._to_show and self.survey is not None:
            with _surviving("print its table"):
                show(self.survey, self.report, self._notes)
        self._to_show = False
        self._reservoir = None

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._reservoir, self._to_show = None, False

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self.history:
            return {}
        return {"version": VERSION, "cut": self._light_cut, "history": [snapshot.state() for snapshot in self.history]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict:
            return
        with _surviving("go on from its state in the checkpoint, and starts anew"):
            if state_dict["version"] != VERSION:
                raise ValueError(f"a state of version {state_dict['version']}, but this release reads {VERSION}")
            self.history = [Snapshot.restore(snapshot) for snapshot in state_dict["history"]]
            self._light_cut = state_dict["cut"]

    def _network(self, pl_module: pl.LightningModule) -> nn.Module:
        if self.network is None:
            return pl_module
        try:
            return pl_module.get_submodule(self.network)
        except AttributeError:
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"got network={self.network!r}; expected a submodule of {type(pl_module).__name__}, such as {children}"
            ) from None

    def _find_folder(self, trainer: pl.Trainer) -> None:
        # Every rank has to ask for the log directory: the first one tells it to the others.
        base = trainer.log_dir or trainer.default_root_dir
        self._where = Path(self.folder) if self.folder is not None else Path(base) / "representative_interpretation"

    def _new_reservoir(self) -> Reservoir:
        return Reservoir(self.reference + self.held_out, seed=self.seed)

    def _offer(self, batch: Any) -> None:
        if self._reservoir is None:
            return
        reservoir, self._reservoir, self._blind = self._reservoir, None, True
        with _surviving("sample images"):
            if self.images_fn is None:
                images, labels = read_batch(batch)
            else:
                chosen = self.images_fn(batch)
                pair = chosen if isinstance(chosen, tuple | list) else (chosen, None)
                images, labels = check_images(pair[0], pair[1] if len(pair) > 1 else None, "images_fn")
            reservoir.offer(images, labels)
            self._reservoir, self._blind = reservoir, False

    def _take_sample(self) -> None:
        if self._reservoir is None:
            return
        sample, self._reservoir = self._reservoir.sample(), None
        if sample is None:
            return
        tested = min(self.held_out, len(sample) // 4)
        first, rest = sample.split(min(self.reference, len(sample) - tested), seed=self.seed)
        self._sample, self._held_out = first, rest if len(rest) else None

    def _pass_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch
        if self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0 and epoch != self._last_epoch:
            self._last_epoch = epoch
            self._pass(trainer, pl_module, full=False)

    def _pass(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, full: bool) -> None:
        if not self._active:
            return
        numbers: dict[str, float] = {}
        if trainer.is_global_zero and not self._blind:
            with _surviving(f"make its {'full' if full else 'light'} pass"):
                numbers = self._look(trainer, pl_module, full=full)
        # To all ranks, so that checkpoints and early stopping that monitor a number decide alike everywhere.
        numbers = trainer.strategy.broadcast(numbers)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, full: bool) -> dict[str, float]:
        if self._sample is None:
            raise RuntimeError("no image was seen: no whole validation epoch has run")
        before = self.history[-1] if self.history else None
        self.survey = None  # the feature maps of the pass before are let go before new ones come
        options = dict(self._options)
        if not full:
            options["groups_per_class"] = 1
        found = survey(
            self._network(pl_module),
            self._sample,
            held_out=self._held_out,
            # When training ends, the epoch has been counted up already.
            epoch=max(0, trainer.current_epoch - (full and trainer.state.fn == TrainerFn.FITTING)),
            step=trainer.global_step,
            full=full,
            cut=self.cut if full or self._light_cut is None else self._light_cut,
            time_budget=self.time_budget if full else self.time_budget / 4,
            class_names=self._names(trainer),
            before=before,
            **options,
        )
        if not full and len(found.predicted) > 1:  # where all is one class yet, no cut was better than another
            self._light_cut = found.groups.cut
        # Members are needed of the last pass only: what is kept does not grow with them.
        self.history = [*(replace(snapshot, groups=()) for snapshot in self.history), found.snapshot]
        self.survey, self._to_show = found, full
        self._publish(trainer, found)
        if full:
            for clue in found.clues:
                warnings.warn(f"RepresentativeInterpretation: {clue.text}", GroupAlarm, stacklevel=2)
        return scalars(found)

    def _publish(self, trainer: pl.Trainer, found: Survey) -> None:
        pictures = draw(found, self.history)
        folder = self._where
        assert folder is not None
        reason = can_write(folder)
        if reason is not None:
            rank_zero_warn(f"RepresentativeInterpretation cannot write to {folder} ({reason}): there is no report")
        else:
            with _surviving("write its report"):
                self.report = write_report(folder, found, self.history, notes=self._notes, pictures=pictures)
                if found.snapshot.kind == "full":
                    rank_zero_info(f"RepresentativeInterpretation: report written to {self.report}")
        with _surviving("hand its numbers to the loggers"):
            log_to(trainer.loggers, scalars(found), pictures, step=trainer.global_step)

    def _names(self, trainer: pl.Trainer) -> tuple[str, ...]:
        if self.class_names is not None:
            return tuple(map(str, self.class_names))
        data = getattr(trainer, "datamodule", None)
        names = getattr(data, "class_names", None) or getattr(data, "classes", None)
        return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


@contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Training never dies because of a pass: an error becomes a warning with its reason."""
    try:
        yield
    except GroupAlarm:
        raise  # a user who turned alarms into errors wants them
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"RepresentativeInterpretation could not {what}: {reason}; training goes on", stacklevel=3)
