"""Save and restore the state of every random number generator, so that a resumed run goes on exactly."""

from __future__ import annotations

import random
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import distributed
from typing_extensions import override

KEY = "fulgurite_random_state"


class RandomState(pl.Callback):
    """Make a run that is resumed from an epoch-boundary checkpoint bit-identical to one that never stopped.

    Lightning's checkpoints hold no RNG state, so a resumed run shuffles and drops out differently. This callback puts
    the state of torch (CPU and the rank's CUDA device), NumPy and Python into every checkpoint, one a rank, and sets it
    in ``on_fit_start``, before the first iterator of a shuffling loader draws its seed.

    What it cannot restore: the position inside an epoch (save at epoch boundaries), generators that you made yourself,
    and nondeterministic kernels (``Trainer(deterministic=True)``). With another number of ranks than the checkpoint was
    written by, nothing is restored and a warning says so.

    Example:
        >>> import lightning.pytorch as pl
        >>> trainer = pl.Trainer(callbacks=[RandomState()], logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> type(trainer.callbacks[0]).__name__
        'RandomState'
    """

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] | None = None

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        mine = random_state(trainer.strategy.root_device)
        states = [mine]
        if trainer.world_size > 1:  # every rank dumps, only rank zero writes
            states = [{} for _ in range(trainer.world_size)]
            distributed.all_gather_object(states, mine)
        checkpoint[KEY] = states

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = checkpoint.get(KEY)
        if self._restored is None:
            warnings.warn(
                "this checkpoint was written without RandomState: the resumed run differs from an uninterrupted one",
                stacklevel=2,
            )

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        states, self._restored = self._restored, None
        if states is None:
            return
        if len(states) != trainer.world_size:
            warnings.warn(
                f"the checkpoint holds the random state of {len(states)} ranks, this run has {trainer.world_size}: "
                "nothing is restored; resume with as many ranks to repeat the uninterrupted run",
                stacklevel=2,
            )
            return
        set_random_state(states[trainer.global_rank], trainer.strategy.root_device)
        # A module that asks for `trainer.estimated_stepping_batches` while it configures its optimizers has the loaders
        # set up before this hook: their first iterator has drawn its seed from another state, and is made anew.
        if trainer.fit_loop._combined_loader is not None and trainer.fit_loop._data_fetcher is not None:
            iter(trainer.fit_loop._data_fetcher)


def random_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state of torch's, NumPy's and Python's global generators, as plain types and tensors.

    Args:
        device: where it is a CUDA device, its generator's state too.

    Example:
        >>> before = random_state()
        >>> first = torch.rand(1)
        >>> set_random_state(before)
        >>> bool(torch.rand(1) == first)
        True
    """
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    version, words, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Put back what :func:`random_state` gave.

    Raises:
        KeyError: the state lacks a generator.
    """
    torch.set_rng_state(state["torch"].cpu())
    numpy_state = state["numpy"]
    np.random.set_state(
        (
            "MT19937",
            numpy_state["key"].cpu().numpy().astype(np.uint32),
            numpy_state["pos"],
            numpy_state["has_gauss"],
            numpy_state["gauss"],
        )
    )
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
