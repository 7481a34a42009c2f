"""Let things go wrong on purpose, from a seed, to see that training survives it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import lightning.pytorch as pl
from typing_extensions import override

from fulgurite.plugins.dynamic_async.engine.faults import Faults
from fulgurite.plugins.dynamic_async.local_peers import own_life, own_number

VARIABLE = "FULGURITE_ALLOW_FAULTS"


class FaultInjector(pl.Callback):
    """Kills and stops processes, and loses, doubles, delays and reorders messages of the strategy ``dynamic_async``.

    For tests of a set-up: that training goes on, and comes to the same answer. It does nothing to data or weights. It
    is refused unless it is allowed, so that a recipe that was copied from a test does no harm by accident.

    Processes are struck by chance at each training step, messages as they come in. All chances are drawn from the seed,
    the peer's number and how often it was started, so that no peer repeats another's fate. To have one that is killed
    started again, set the strategy's ``restart_s`` and ``restarts``.

    Args:
        kill: chance a step that a process ends itself by SIGKILL.
        pause: chance a step that it stops itself by SIGSTOP, for ``pause_s``.
        drop: chance that an incoming message is lost.
        duplicate: chance that it comes again within ``delay_s``.
        reorder: chance that it comes after the next one.
        delay: chance that it comes up to ``delay_s`` late.
        partition: chance a step that a process is cut off from all others, both ways, for ``partition_s``.
        pause_s: seconds.
        partition_s: seconds.
        delay_s: seconds.
        seed: of all chances.
        peers: numbers of the local peers that ``kill``, ``pause`` and ``partition`` strike, 0 for the one that was
            started by hand; None: all.
        lives: ``kill`` strikes a peer so often at most; one that was started again more often is spared.
        allow: must be true, or the variable ``FULGURITE_ALLOW_FAULTS`` be 1.

    Raises:
        ValueError: it is not allowed; a chance that is not from 0 to 1; another strategy than ``dynamic_async``.

    Example:
        >>> FaultInjector(drop=0.1, seed=7, allow=True).faults.any_of_messages
        True
        >>> FaultInjector(drop=0.1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: FaultInjector kills processes and loses messages; ...
    """

    def __init__(
        self,
        *,
        kill: float = 0.0,
        pause: float = 0.0,
        drop: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        delay: float = 0.0,
        partition: float = 0.0,
        pause_s: float = 3.0,
        partition_s: float = 3.0,
        delay_s: float = 0.5,
        seed: int = 0,
        peers: Sequence[int] | None = None,
        lives: int = 1,
        allow: bool = False,
    ) -> None:
        super().__init__()
        if not allow and os.environ.get(VARIABLE) != "1":
            raise ValueError(
                "FaultInjector kills processes and loses messages; to have it do so, give allow: true, or set "
                f"{VARIABLE}=1, else take it out of the callbacks"
            )
        if lives < 0:
            raise ValueError(f"got lives={lives}; expected 0 or more")
        self.peers, self.lives = None if peers is None else frozenset(peers), lives
        self.faults = Faults(
            seed=seed,
            kill=kill,
            pause=pause,
            drop=drop,
            duplicate=duplicate,
            reorder=reorder,
            delay=delay,
            partition=partition,
            pause_s=pause_s,
            partition_s=partition_s,
            delay_s=delay_s,
        )

    def struck(self, number: int, life: int) -> Faults:
        """What a peer suffers: all of it, or what happens to messages only.

        Args:
            number: of the peer.
            life: how often it was started before.

        Example:
            >>> injector = FaultInjector(kill=0.5, drop=0.1, peers=[2], allow=True)
            >>> [injector.struck(number, life).kill for number, life in ((1, 0), (2, 0), (2, 1))]
            [0.0, 0.5, 0.0]
        """
        if self.peers is not None and number not in self.peers:
            return replace(self.faults, kill=0.0, pause=0.0, partition=0.0)
        return self.faults if life < self.lives else replace(self.faults, kill=0.0)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Callbacks are set up before the strategy, which makes its peer then.
        if stage != "fit":
            return
        from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy

        if not isinstance(trainer.strategy, DynamicAsyncStrategy):
            raise ValueError(
                f"FaultInjector got {type(trainer.strategy).__name__}, which does not survive what it does; expected "
                "strategy: dynamic_async"
            )
        trainer.strategy.inject(self.struck(own_number(), own_life()))
