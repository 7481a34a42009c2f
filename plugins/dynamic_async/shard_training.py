"""One peer's training steps on the shards that it hosts, and what all peers know of each other's."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fulgurite.plugins.dynamic_async.engine.peer import Evaluation, Peer
from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
from fulgurite.plugins.dynamic_async.model.certificate import Certificate
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.objective import ObjectiveError, ObjectiveWatch
from fulgurite.plugins.dynamic_async.training_map import ShardFacts, TrainingMap
from fulgurite.plugins.dynamic_async.training_note import TrainingNote

_log = logging.getLogger(__name__)
_NOTE = "training"
# So many values of a shard that are not finite, one after the other, end this process's training.
_MOST_BROKEN = 3
# So many evaluations of a shard in which its weight decay is lost in rounding, and nothing is certified.
_MOST_UNSEEN = 100


class ShardTraining:
    """Evaluates a hosted shard by one step of the optimizer, anchored to what was heard of the others.

    Args:
        map: what is iterated.
        peer: this process's part in it.
        flat: the module's parameters.
        optimizer: whose state is kept apart for each shard.
        watch: checks the loss at every step; None: nothing is certified.
        step: the learning rate, for the certificate.

    Attributes:
        counts: shard -> evaluations so far, by whichever hosts, as far as heard.
        facts: shard -> what a certificate needs.
        losses: shard -> (loss, when it was heard, seconds) of its newest evaluation.
        contraction: ratio of the last two steps' lengths of the shard evaluated last, without unit.
        conflict: why nothing is certified although it is watched, here or at any peer; empty: no such thing.
    """

    def __init__(
        self,
        map: TrainingMap,
        peer: Peer,
        flat: FlatParameters,
        optimizer: Optimizer,
        watch: ObjectiveWatch | None,
        step: float,
    ) -> None:
        self.map, self.peer, self.flat, self.watch = map, peer, flat, watch
        self._optimizer, self._step = optimizer, step
        self.counts: dict[int, int] = {}
        self.facts: dict[int, ShardFacts] = {}
        self.losses: dict[int, tuple[float, float]] = {}
        self.contraction = float("nan")
        self.conflict = ""
        self._data, self._since = "", 0
        self._loaded: dict[int, Any] = {}
        self._scaled = False
        self._stepped: np.ndarray[Any, Any] | None = None
        self._broken: dict[int, int] = {}
        self._warned: set[object] = set()
        self._verified: set[int] = set()
        self._unseen: dict[int, int] = {}
        self._states: dict[int, Any] = {}
        self._moved: dict[int, float] = {}
        self._certified: tuple[object, Certificate] | None = None
        self._evaluation: Evaluation | None = None
        self._loss = float("nan")
        self._took_s = 0.0

    @contextmanager
    def evaluating(self, shard: int) -> Iterator[None]:
        """Inside, the module has the shard's parameters and the optimizer its state; then the result is published."""
        self.serve()
        self._evaluation = self._begin(shard)
        began = time.monotonic()
        if self._evaluation is None:  # taken over a moment ago: the step is done for nothing, which harms nobody
            heard = self.peer.last_heard(shard)
            self.flat.write(self.map.bottom(shard) if heard is None else heard)
        else:
            self.flat.write(self._evaluation.inputs[shard])
        if shard in self._loaded:
            self._states[shard] = self._loaded.pop(shard)
        self._optimizer.state = self._states.setdefault(shard, defaultdict(dict))
        self._loss, self._stepped, self._scaled = float("nan"), None, False
        if self.watch is None:
            yield
        else:
            with self.watch:
                yield
        self._commit(shard)
        self._took_s = time.monotonic() - began

    def after_backward(self, loss: Tensor | None, labels: object, scale: float = 1.0) -> None:
        """Check the loss, then add the anchor's pull to its gradient.

        Args:
            loss: of the batch.
            labels: of the batch.
            scale: by which the gradients are scaled, as those of float16 are.

        Raises:
            ObjectiveError: the loss is not what the module states.
        """
        if loss is not None:
            self._loss = float(loss.detach())
        if self._evaluation is None:
            return
        i = self._evaluation.shard
        if self.watch is not None:
            self.watch.verify(labels, i)  # type: ignore[arg-type]
            self._learn_facts(i, labels)  # type: ignore[arg-type]
        self._scaled = scale != 1.0
        pull = self.map.pull(i, self._evaluation.view, self._evaluation.inputs)
        self.flat.add_to_gradient(pull if scale == 1.0 else (pull * scale).astype(pull.dtype))
        if self.watch is not None:
            self._stepped = self.flat.gradient()

    def serve(self) -> None:
        """Hear the others, and evaluate the server if it is hosted here.

        Raises:
            ValueError: another peer that was here before has other training data.
        """
        self.peer.poll()
        self._hear()
        hosted = set(self.peer.hosted)
        for shard in [shard for shard in self._states if shard not in hosted]:
            del self._states[shard]  # whoever hosts it next goes on without
        if self.map.star and self.map.shards in self.peer.hosted:
            evaluation = self.peer.begin(self.map.shards)
            if evaluation is not None and evaluation.changed:
                value = self.map.evaluate(self.map.shards, evaluation.configuration, evaluation.view, evaluation.inputs)
                self.peer.commit(evaluation, value)
                self.peer.publish()

    def mean(self) -> np.ndarray[Any, Any]:
        """(d,) what is trained: the mean of the shards in view.

        After the stop, and with none in view, of what was heard last of each: those who stopped first are gone by then.
        """
        values = {i: block.value for i, block in self.peer.blocks().items()}
        if self.peer.stopped or not any(i in values for i in range(self.map.shards)):
            heard = {i: value for i in range(self.map.shards) if (value := self.peer.last_heard(i)) is not None}
            values = heard | values
        view = np.zeros(self.map.num_participants, dtype=bool)
        view[list(values)] = True
        return self.map.mean(view, values)

    def rounds(self) -> int:
        """How often every shard has been evaluated at least; 0 while one has not been heard of."""
        return min((self.counts.get(i, 0) for i in range(self.map.shards)), default=0)

    def certificate(self, eps: float | None = None) -> Certificate | None:
        """What holds by now; None where nothing is watched or a shard has not been evaluated yet."""
        if self.watch is None or self.conflict or len(self.facts) < self.map.shards:
            return None
        key = (tuple(sorted(self.facts.items())), self.map.reach, eps)
        if self._certified is None or self._certified[0] != key:
            found = self.map.certificate(self.facts, bounds=self.watch.bounds, step=self._step, eps=eps)
            self._certified = key, found
        return self._certified[1]

    def optimizer_state(self, shard: int) -> dict[str, Any]:
        """The optimizer's state of a shard, for a checkpoint: parameter names to its tensors and numbers."""
        state = self._states.get(shard, {})
        weights = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        return {str(k): dict(state[weight]) for k, weight in enumerate(weights) if weight in state}

    def load_optimizer_state(self, shard: int, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Put back what :meth:`optimizer_state` gave."""
        weights = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, values in saved.items():
            weight = weights[int(key)]
            state[weight] = {
                name: value.to(weight.device) if isinstance(value, torch.Tensor) and value.ndim else value
                for name, value in values.items()
            }
        self._loaded[shard] = state

    def describe(self, data: str) -> None:
        """Tell what is trained on, so that peers with other data are noticed.

        Args:
            data: the same text where the data are the same.

        Raises:
            ValueError: a peer that was here before has others.
        """
        self.peer.poll()
        self._hear()
        self._data, self._since = data, sum(self.counts.values())
        self._hear()
        self._tell()
        self.peer.publish()

    def join_from(self, shard: int, value: np.ndarray[Any, Any], count: int, state: Mapping[str, Any]) -> None:
        """A shard goes on here from a value that was kept; any thread may say so.

        Args:
            shard: which.
            value: of its parameters; X is made to hold it.
            count: its evaluations so far.
            state: the optimizer's, as :meth:`optimizer_state` gave it.
        """
        if shard < self.map.shards:
            self.load_optimizer_state(shard, state)
            self.counts[shard] = max(self.counts.get(shard, 0), count)
        self.map.reach = max(self.map.reach, self.map.distance(shard, value, self.map.centre) * (1 + 1e-12))
        self._tell()

    def _begin(self, shard: int) -> Evaluation | None:
        """Begin, if it certifies anything: else look for news first, but no longer than an evaluation takes.

        Peers that share cores would otherwise keep each other from the steps that count.
        """
        evaluation, end = self.peer.begin(shard), time.monotonic() + self._took_s
        while self.watch is not None and evaluation is not None and time.monotonic() < end and not self.peer.stopped:
            own = self.peer.blocks().get(shard)
            if own is None or own.fingerprint != evaluation.fingerprint or evaluation.tag > own.tag:
                break
            time.sleep(self._took_s / 8)
            self.serve()
            evaluation = self.peer.begin(shard)
        return evaluation

    def _commit(self, shard: int) -> None:
        evaluation = self._evaluation
        self._evaluation = None
        if evaluation is None:
            return
        before, after = evaluation.inputs[shard], self.flat.read()
        if self.watch is not None:
            self._check_step(before, after)
        if not np.isfinite(after).all():
            self._skip(shard)
            return
        self._broken.pop(shard, None)
        if self._scaled and np.array_equal(before, after):  # float16 has overflown, and the step was left out
            return
        if not self.peer.commit(evaluation, after):
            return
        moved = self.map.distance(shard, after, before)
        former = self._moved.get(shard, 0.0)
        self.contraction = moved / former if former else float("nan")
        self._moved[shard] = moved
        self.counts[shard] = self.counts.get(shard, 0) + 1
        self.losses[shard] = self._loss, time.monotonic()
        self._tell()
        self.peer.publish()

    def _check_step(self, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> None:
        found = "no gradient was computed"
        if self._stepped is not None:
            moved = self._step * self._stepped
            expected = before - moved
            unit = 8 * float(np.finfo(before.dtype).eps)
            if (np.abs(after - expected) <= unit * (np.abs(before) + np.abs(moved))).all():
                return
            found = f"it is off by {float(np.linalg.norm(after - expected)):.3g}"
        raise ObjectiveError(
            f"a step was not parameters - lr * gradient with lr = {self._step:g}: {found}; expected plain SGD whose "
            "rate stays, gradients that no hook alters or clips, and one call of its closure: take those out, or leave "
            "out objective_bounds() to train without a certificate"
        )

    def _skip(self, shard: int) -> None:
        times = self._broken[shard] = self._broken.get(shard, 0) + 1
        if times >= _MOST_BROKEN:
            raise MapError(
                f"shard {shard}: {times} steps in a row led to parameters that are not finite; they are kept from the "
                "other peers, of whom the next host may meet the same: lower the learning rate, or look for such data"
            )
        _log.warning("shard %d: a step led to parameters that are not finite; it is not counted", shard)

    def _learn_facts(self, i: int, labels: Tensor) -> None:
        watch = self.watch
        assert watch is not None
        assert watch.loss is not None
        if i in self._verified:
            return
        if not watch.shown:
            times = self._unseen[i] = self._unseen.get(i, 0) + 1
            if times == _MOST_UNSEEN:
                kind = str(self.map.centre.dtype)
                self._object(
                    f"{kind} cannot show a weight decay of mu = {watch.mu:g} beside the gradients of shard {i}: take "
                    "precision 64-true, or a larger decay"
                )
            return
        self._verified.add(i)
        slope = watch.slope(labels, torch.from_numpy(self.map.centre)) * (1 + 1e-6)
        found = ShardFacts(watch.loss, slope, watch.spread, watch.rows, watch.data)
        self._learn(i, found, "this process")

    def _learn(self, i: int, found: ShardFacts, whose: str) -> None:
        known = self.facts.get(i)
        if known is not None and not known.agrees(found):
            self._object(
                f"shard {i} has {found.rows} rows with a slope of {found.slope:.6g} at {whose}, and had {known.rows} "
                f"with {known.slope:.6g} at another host; expected the same data and features everywhere"
            )
            return
        self.facts[i] = found if known is None else known.greatest(found)

    def _object(self, why: str) -> None:
        if self.conflict:
            return
        _log.warning("nothing is certified any more: %s", why)
        self.conflict = why
        self._tell()
        self.peer.publish()

    def _tell(self) -> None:
        hosted = set(self.peer.hosted)
        # Copies, because shards are adopted in another thread.
        losses = {i: loss for i, (loss, _) in dict(self.losses).items() if i in hosted}
        note = TrainingNote(
            dict(self.counts),
            dict(self.facts),
            losses,
            self._data,
            self._since,
            float(self.map.reach),
            self.conflict,
        )
        self.peer.note[_NOTE] = note.write()

    def _hear(self) -> None:
        for number, note in self.peer.notes().items():
            if number == self.peer.number or _NOTE not in note:
                continue
            said = TrainingNote.read(note[_NOTE], self.map.shards)
            if said is None:
                self._warn(number, f"peer {number:x} says nothing of training that can be read; is it another version?")
                continue
            self._compare_data(number, said)
            self.map.reach = max(self.map.reach, said.reach)
            if said.conflict:  # whoever reads what was computed from the wrong data is as wrong
                self._object(said.conflict)
            for i, count in said.counts.items():
                self.counts[i] = max(self.counts.get(i, 0), count)
            for i, facts in said.facts.items():
                self._learn(i, facts, f"peer {number:x}")
            for i, loss in said.losses.items():
                if self.losses.get(i, (None,))[0] != loss:
                    self.losses[i] = loss, time.monotonic()

    def _compare_data(self, number: int, said: TrainingNote) -> None:
        if not said.data or not self._data or said.data == self._data:
            return
        # Who came later is wrong, so that nobody is taken along by a newcomer.
        if (self._since, self.peer.number) > (said.since, number):
            raise ValueError(
                f"this process trains on {self._data}, peer {number:x} on {said.data}; expected the same data, in the "
                "same order, on all peers"
            )
        self._warn((number, "data"), f"peer {number:x} trains on {said.data}, not on {self._data}; it has to leave")

    def _warn(self, once: object, text: str) -> None:
        if once not in self._warned:
            self._warned.add(once)
            _log.warning("%s", text)
