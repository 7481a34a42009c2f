"""Say of a run whether its answer is certified, how fast it contracts, and how far from the true answer it ended."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from fulgurite.callbacks.convergence_picture import draw_convergence
from fulgurite.callbacks.convergence_record import ConvergenceRecord, Point, weighted_distance
from fulgurite.plugins.dynamic_async.model.certificate import Certificate
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.files import replacing, write_text

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.direct_solution import DirectSolution
    from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy


class ConvergenceCertifier(pl.Callback):
    r"""Watches convergence: what is certified of it, what is observed of it, and how the two compare in the end.

    Under the strategy ``dynamic_async`` a certificate bounds, after k rounds without a change of who is there,

    .. math:: \|x - x^*\|_w \le \gamma^k r_0 + e / (1 - \gamma)

    (Daggitt and Griffin, *Dynamic Asynchronous Iterations*, https://arxiv.org/abs/2012.01686). This callback logs it
    beside what is measured, and at the end compares it with the answer itself: where the module states
    ``objective_bounds`` the leading process solves the anchored objective of all shards directly, in float64, through
    the module's own ``training_step`` (:func:`~fulgurite.plugins.dynamic_async.direct_solution.solve_directly`).

    It only looks: weights, random numbers and the order of data are, bit for bit, those of a run without it. Under
    other strategies nothing is certified; it says so, and shows the ratio of the lengths of successive epochs' steps.

    Logged each ``log_every_n_steps`` steps and at the end, where ``expect:`` of a recipe finds it:

    - ``certificate/certified``: 1 if the verdict is "certified", else 0;
    - ``certificate/gamma``: γ; ``certificate/contraction``: ratio of the lengths of a shard's last two steps;
    - ``certificate/rounds``: k, the least tag in view; ``certificate/needed``: k*(eps), rounds that suffice for eps;
    - ``certificate/bound``: the bound; ``certificate/error``: the measured ‖x − x*‖_w, at most; at the end;
    - ``certificate/holds``: 1 if there is a certificate and the error is within its bound; at the end.

    At the end ``<log dir>/convergence/`` gets ``certificate.json`` and ``convergence.png``, bound and distance over
    the evaluations.

    Args:
        eps: the error that ``certificate/needed`` is about; None: the strategy's.
        reference: ``"direct"``: compare with the direct solution; ``"none"``: do not.
        folder: where to write; None: ``<log dir>/convergence``.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> import tempfile, warnings
        >>> from fulgurite.data import Digits
        >>> from fulgurite.models.softmax_probe import SoftmaxProbe
        >>> warnings.filterwarnings("ignore", ".*does not have many workers")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = pl.Trainer(
        ...         accelerator="cpu", max_epochs=2, strategy="auto", callbacks=[ConvergenceCertifier(folder=folder)],
        ...         logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...     )
        ...     trainer.fit(SoftmaxProbe(10, features=32), Digits(batch_size=200))
        ...     written = json.loads(Path(folder, "certificate.json").read_text())
        >>> written["verdict"], written["reason"]
        ('empirical', 'the strategy is SingleDeviceStrategy; answers of dynamic_async are certified')
    """

    def __init__(
        self,
        *,
        eps: float | None = None,
        reference: Literal["direct", "none"] = "direct",
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if eps is not None and not eps > 0:
            raise ValueError(f"got eps={eps}; expected more than 0, or null for the strategy's")
        if reference not in ("direct", "none"):
            raise ValueError(f"got reference={reference!r}; choose from 'direct', 'none'")
        self.eps, self.reference, self.folder = eps, reference, folder
        self._record, self._began = ConvergenceRecord(), 0.0
        self._weights: list[torch.Tensor] | None = None
        self._moved = math.nan

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record, self._began = ConvergenceRecord(), time.monotonic()
        self._weights = None if _dynamic(trainer) else _copied(pl_module)
        self._moved = math.nan

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        strategy = _dynamic(trainer)
        if strategy is None or strategy.training is None:
            return
        logs = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if logs or self._record.wants(strategy.training.rounds()):
            point = self._look(strategy, pl_module)
            if self._record.wants(point.evaluations):
                self._record.add(point)
            if logs:
                _log(trainer, self._numbers(strategy.certificate(), point, strategy.eps))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._weights is None:
            return
        now = _copied(pl_module)
        pairs = zip(now, self._weights, strict=True) if len(now) == len(self._weights) else ()
        moved = math.sqrt(sum(float((a - b).double().square().sum()) for a, b in pairs if a.shape == b.shape))
        ratio = moved / self._moved if self._moved > 0 else math.nan
        self._weights, self._moved = now, moved
        self._record.add(Point(trainer.current_epoch + 1, self._seconds(), contraction=ratio))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        strategy = _dynamic(trainer)
        self._weights = None
        if strategy is None or strategy.training is None:
            last = self._record.points[-1] if self._record.points else Point(0, self._seconds())
            reason = f"the strategy is {type(trainer.strategy).__name__}; answers of dynamic_async are certified"
            self._finish(trainer, None, last, ("empirical", reason), None)
            return
        last = self._look(strategy, pl_module)
        if not trainer.is_global_zero:
            trainer.callback_metrics.update(_tensors(self._numbers(strategy.certificate(), last, strategy.eps)))
            return
        self._record.add(last)
        compared = last.states is not None and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if compared:
            try:
                self._measure(strategy, pl_module)
            except Exception as error:  # training is over and well; only the comparison is lost
                rank_zero_warn(f"ConvergenceCertifier could not solve directly: {type(error).__name__}: {error}")
        self._finish(trainer, strategy.certificate(), self._record.points[-1], strategy.verdict, strategy.eps)

    def _look(self, strategy: DynamicAsyncStrategy, module: pl.LightningModule) -> Point:
        training = strategy.training
        assert training is not None
        before = training.peer.rounds()
        blocks = training.peer.blocks()
        # If the view changes in between, its tags are of no use; they only grow otherwise.
        rounds = min(before, training.peer.rounds())
        certificate = strategy.certificate()
        compared = self.reference == "direct" and hasattr(module, "objective_bounds")
        return Point(
            training.rounds(),
            self._seconds(),
            rounds=rounds,
            bound=certificate.bound(rounds) if certificate is not None else math.inf,
            contraction=training.contraction,
            view=tuple(sorted(blocks)),
            states={i: block.value for i, block in blocks.items()} if compared else None,
        )

    def _measure(self, strategy: DynamicAsyncStrategy, module: pl.LightningModule) -> None:
        from fulgurite.plugins.dynamic_async.direct_solution import solve_directly

        training, loader = strategy.training, strategy.shard_loader
        assert training is not None
        assert loader is not None
        certificate = strategy.certificate()
        count = training.map.num_participants
        weights = certificate.weights if certificate is not None and certificate.certified else np.ones(count)
        mu = float(module.objective_bounds()[0])  # type: ignore[operator]
        found: dict[tuple[int, ...], DirectSolution | None] = {}

        def distance(point: Point) -> float:
            assert point.states is not None
            if point.view not in found:
                present = np.isin(np.arange(count), point.view)
                batches = {i: loader.whole(i) for i in point.view if i < training.map.shards}
                found[point.view] = (
                    solve_directly(module, batches, training.map, present, mu=mu, start=point.states)
                    if batches
                    else None
                )
            answer = found[point.view]
            return math.nan if answer is None else weighted_distance(point.states, answer.states, weights, answer.error)

        self._record.measure(distance)

    def _numbers(self, certificate: Certificate | None, point: Point, eps: float | None) -> dict[str, float]:
        certified = certificate is not None and certificate.certified
        numbers = {
            "certified": float(certified),
            "contraction": point.contraction,
            "rounds": float(point.rounds),
            "error": point.distance,
        }
        if certificate is not None and certified:
            numbers |= {"gamma": certificate.gamma, "bound": point.bound, "needed": self._needed(certificate, eps)}
        return {f"certificate/{name}": number for name, number in numbers.items() if math.isfinite(number)}

    def _needed(self, certificate: Certificate, eps: float | None) -> float:
        wanted = self.eps or eps
        try:
            return math.nan if wanted is None else float(certificate.pseudocycles(wanted))
        except MapError:  # below what rounding adds up to
            return math.nan

    def _finish(
        self,
        trainer: pl.Trainer,
        certificate: Certificate | None,
        last: Point,
        verdict: tuple[str, str],
        eps: float | None,
    ) -> None:
        numbers = self._numbers(certificate, last, eps)
        numbers["certificate/holds"] = float(verdict[0] == "certified" and last.distance <= last.bound)
        trainer.callback_metrics.update(_tensors(numbers))
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        _log(trainer, numbers)
        folder = Path(self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "convergence")
        title = _title(verdict, certificate, last)
        try:
            content = {
                "verdict": verdict[0],
                "reason": verdict[1],
                "scope": certificate.scope if certificate is not None else None,
                "eps": self.eps or eps,
                "r0": certificate.r0 if certificate is not None and certificate.certified else None,
                **{name.removeprefix("certificate/"): number for name, number in numbers.items()},
                "points": [point.to_dict() for point in self._record.points],
            }
            figure = draw_convergence(self._record.points, title, eps=eps)
            with replacing(folder / "convergence.png") as path:
                figure.savefig(path)
            write_text(folder / "certificate.json", json.dumps(content, indent=1, allow_nan=False))
            rank_zero_info(f"ConvergenceCertifier: {title}; {verdict[1]}; see {folder}")
        except Exception as error:  # a trained network is not lost to a full disk
            rank_zero_warn(f"ConvergenceCertifier could not write to {folder}: {type(error).__name__}: {error}")

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _title(verdict: tuple[str, str], certificate: Certificate | None, last: Point) -> str:
    parts = [verdict[0]]
    if certificate is not None and certificate.certified:
        parts.append(f"γ = {certificate.gamma:.6g}, after {last.rounds} rounds within {last.bound:.3g}")
    if math.isfinite(last.distance):
        parts.append(f"measured {last.distance:.3g}")
    elif math.isfinite(last.contraction):
        parts.append(f"last ratio of steps {last.contraction:.6g}")
    return ", ".join(parts)


def _dynamic(trainer: pl.Trainer) -> DynamicAsyncStrategy | None:
    from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy

    return trainer.strategy if isinstance(trainer.strategy, DynamicAsyncStrategy) else None


def _copied(module: pl.LightningModule) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in module.parameters() if weight.requires_grad]


def _tensors(numbers: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


def _log(trainer: pl.Trainer, numbers: dict[str, float]) -> None:
    # To the loggers, not through Lightning's results: those would come back, outdated, over the numbers of the end.
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=trainer.global_step)
    trainer.callback_metrics.update(_tensors(numbers))
