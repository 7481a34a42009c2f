"""An implicit layer in a file, for workers that never import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.files import replacing


def save_map(map: ImplicitGraphMap, path: str | os.PathLike[str]) -> None:
    """Write a map of one epoch, whole or not at all.

    Args:
        map: the layer.
        path: ``.npz``.

    Raises:
        MapError: a map of several epochs.
        OSError: the file cannot be written.
    """
    if map.num_epochs != 1 or map.normalisation != "given":
        raise MapError(
            f"got a map of {map.num_epochs} epochs, normalisation {map.normalisation!r}; a file holds one given graph"
        )
    (graph,) = map.adjacencies
    arrays = {
        "indptr": graph.indptr,
        "indices": graph.indices,
        "data": graph.data,
        "weight": map.weight,
        "bias": map.bias,
        "scale": map.scale,
        "nodes": np.concatenate(map.parts),
        "sizes": np.array([len(nodes) for nodes in map.parts]),
        "kind": np.array([map.activation, map.iteration]),
    }
    if map.gain is not None:
        arrays["gain"] = map.gain
    with replacing(path) as temporary, Path(temporary).open("wb") as file:
        np.savez(file, **arrays)


def load_map(path: str | os.PathLike[str]) -> ImplicitGraphMap:
    """Read what :func:`save_map` wrote; the fingerprint is the same.

    Args:
        path: ``.npz``; nothing in it is executed.

    Raises:
        MapError: the file is none of these.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
        size = len(found["bias"])
        activation, iteration = found["kind"].tolist()
        ends: Sequence[int] = np.cumsum(found["sizes"])[:-1].tolist()
        return ImplicitGraphMap(
            csr_array((found["data"], found["indices"], found["indptr"]), shape=(size, size)),
            found["weight"],
            found["bias"],
            np.split(found["nodes"], ends),
            activation=activation,
            iteration=iteration,
            scale=found["scale"],
            gain=found.get("gain"),
            dtype=found["bias"].dtype,
        )
    except (KeyError, ValueError, EOFError, BadZipFile) as error:
        raise MapError(f"{path} does not hold an implicit layer that save_map wrote: {error}") from error
