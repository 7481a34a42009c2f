"""One peer's training steps on the shards that it hosts, and what all peers know of each other's."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fulgurite.plugins.dynamic_async.engine.peer import Evaluation, Peer
from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
from fulgurite.plugins.dynamic_async.model.certificate import Certificate
from fulgurite.plugins.dynamic_async.objective import ObjectiveWatch
from fulgurite.plugins.dynamic_async.training_map import ShardFacts, TrainingMap

_NOTE = "training"


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
        self._states: dict[int, Any] = {}
        self._moved: dict[int, float] = {}
        self._certified: tuple[object, Certificate] | None = None
        self._evaluation: Evaluation | None = None
        self._loss = float("nan")

    @contextmanager
    def evaluating(self, shard: int) -> Iterator[None]:
        """Inside, the module has the shard's parameters and the optimizer its state; then the result is published."""
        self.serve()
        self._evaluation = self.peer.begin(shard)
        if self._evaluation is None:  # taken over a moment ago: the step is done for nothing, which harms nobody
            heard = self.peer.last_heard(shard)
            self.flat.write(self.map.bottom(shard) if heard is None else heard)
        else:
            self.flat.write(self._evaluation.inputs[shard])
        self._optimizer.state = self._states.setdefault(shard, defaultdict(dict))
        self._loss = float("nan")
        if self.watch is None:
            yield
        else:
            with self.watch:
                yield
        self._commit(shard)

    def after_backward(self, loss: Tensor | None, labels: object) -> None:
        """Check the loss, then add the anchor's pull to its gradient.

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
            self._learn_facts(i)
        self.flat.add_to_gradient(self.map.pull(i, self._evaluation.view, self._evaluation.inputs))

    def serve(self) -> None:
        """Hear the others, and evaluate the server if it is hosted here."""
        self.peer.poll()
        self._hear()
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
        if self.watch is None or len(self.facts) < self.map.shards:
            return None
        key = (tuple(sorted(self.facts.items())), eps)
        if self._certified is None or self._certified[0] != key:
            bounds = self.watch.mu, self.watch.lipschitz
            found = self.map.certificate(self.facts, bounds=bounds, step=self._step, eps=eps)
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
        self._states[shard] = state

    def _commit(self, shard: int) -> None:
        evaluation = self._evaluation
        self._evaluation = None
        if evaluation is None:
            return
        before, after = evaluation.inputs[shard], self.flat.read()
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

    def _learn_facts(self, i: int) -> None:
        assert self.watch is not None
        assert self.watch.loss is not None
        assert self._evaluation is not None
        if i in self.facts:
            return
        if np.array_equal(self._evaluation.inputs[i], self.map.centre):
            slope = float(np.linalg.norm(self.flat.gradient())) * (1 + 1e-6)
            self.facts[i] = ShardFacts(self.watch.loss, slope, self.watch.spread, self.watch.rows)
            return
        length = float(np.linalg.norm(self.map.centre))
        found = ShardFacts.observed(self.watch.loss, self.watch.spread, self.watch.rows, self.watch.mu, length)
        if found is not None:
            self.facts[i] = found

    def _tell(self) -> None:
        hosted = set(self.peer.hosted)
        said = {
            "counts": self.counts,
            "facts": {i: list(asdict(facts).values()) for i, facts in self.facts.items()},
            "losses": {i: loss for i, (loss, _) in self.losses.items() if i in hosted and np.isfinite(loss)},
        }
        self.peer.note[_NOTE] = json.dumps(said, separators=(",", ":"))

    def _hear(self) -> None:
        for number, note in self.peer.notes().items():
            if number == self.peer.number or _NOTE not in note:
                continue
            said = json.loads(note[_NOTE])
            for key, count in said["counts"].items():
                self.counts[int(key)] = max(self.counts.get(int(key), 0), int(count))
            for key, facts in said["facts"].items():
                heard, known = ShardFacts(*facts), self.facts.get(int(key))
                self.facts[int(key)] = heard if known is None else known.greatest(heard)
            for key, loss in said["losses"].items():
                if self.losses.get(int(key), (None,))[0] != loss:
                    self.losses[int(key)] = float(loss), time.monotonic()
