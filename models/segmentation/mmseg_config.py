"""Configs of mmsegmentation, read as data: where one may come from, and what it may name."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from fulgurite.models.repgraph.mmcv_stand_in import import_mmseg
from fulgurite.plugins.opened_imports import is_opened
from fulgurite.plugins.registry import nearest

# Registered, but they fetch files by name or from the network, or read them unsafely, as soon as they are built.
FETCHING = ("CLIPTextEncoder", "VPD")
_REMOTE = re.compile(r"^[\w+.-]{2,}:")  # https://, open-mmlab://, torchvision://, hf-hub:
_WORD = re.compile(r"[\w+-]*")
_SYNC = ("SyncBN", "MMSyncBN", "mmseg.SyncBN", "mmengine.SyncBN", "mmengine.MMSyncBN")
_AROUND = ("model", "custom_imports", "load_from")


class MmsegConfigError(ValueError):
    """A config cannot be used; the text is one line that says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Pretrained:
    """Weights that a config asks for.

    Attributes:
        module: the part of the model that they are for, a dotted path of attributes; empty for all of it.
        path: the file.
        prefix: that the part has in the file's names.
    """

    module: str
    path: str
    prefix: str = ""


@dataclass(frozen=True)
class SegmentorConfig:
    """A config that is ready to build.

    Attributes:
        model: mmengine's ``ConfigDict`` of the segmentor, without weights and preprocessor.
        pretrained: weights that lie on this machine.
        preprocessor: options of the ``data_preprocessor`` that it had.
    """

    model: Any
    pretrained: tuple[Pretrained, ...] = ()
    preprocessor: dict[str, Any] = field(default_factory=dict)


def read_config(config: Any, changes: Mapping[str, Any] | None = None) -> SegmentorConfig:
    """Read a config as a recipe, a checkpoint or a program gives it.

    A mapping may come from a stranger. In it every ``type`` has to be a name that is registered already; dotted types
    and ``custom_imports`` are taken for modules that ``--allow-import`` opened alone; other text has to be a plain
    word, save for the path of a file of weights. What mmsegmentation ships and what a program has made by
    ``mmengine.Config.fromfile`` was code before and is taken as it is.

    Either way, normalisation by ``SyncBN`` becomes ``BN`` (``Trainer(sync_batchnorm=True)`` synchronises it), weights
    on the network are left out with a warning, and ``test_cfg`` is ``mode="whole"`` where there is none.

    Args:
        config: the model's mapping, or one with it under ``model``; the name of a config that mmsegmentation ships
            (``nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512``, or without the folder); or an
            ``mmengine.Config``.
        changes: merged over the model's mapping; ``None`` as a value takes the key out. Held to the same.

    Raises:
        MmsegConfigError: a name that is not shipped, a path, a URL, a type that is not registered, a missing key.
        ImportError: mmsegmentation is not installed.
    """
    import_module("fulgurite.models.repgraph.mmseg")
    from mmengine.config import Config, ConfigDict

    trusted = True
    if isinstance(config, str):
        whole = _load(find_shipped(config))
    elif isinstance(config, Config):
        whole = copy.deepcopy(config._cfg_dict)
    elif isinstance(config, Mapping):
        _check_tree(config)
        whole, trusted = ConfigDict(copy.deepcopy(_plain(config))), False
    else:
        raise MmsegConfigError(f"got a config of type {type(config).__name__}; want a mapping or a shipped name")
    weights: list[Pretrained] = []
    if "type" not in whole and "model" in whole:
        if not trusted:
            _check_surroundings(whole)
        if isinstance(whole.get("load_from"), str):
            weights.append(Pretrained("", whole["load_from"]))
        whole = whole["model"]
    if changes:
        _check_tree(changes)
        whole = ConfigDict(_merged(whole, changes))
    _check_keys(whole)
    preprocessor = whole.pop("data_preprocessor", None) or {}
    _take_weights(whole, (), weights)
    count = _unsynchronise(whole)
    if count:
        rank_zero_info(
            f"mmseg config: {count} norms SyncBN are BN here; Trainer(sync_batchnorm=True) synchronises them"
        )
    for key, default in (("train_cfg", {}), ("test_cfg", {"mode": "whole"})):
        if whole.get(key) is None:
            whole[key] = ConfigDict(default)
    whole["test_cfg"].setdefault("mode", "whole")
    remote = [item for item in weights if _REMOTE.match(item.path)]
    for item in remote:
        rank_zero_warn(
            f"mmseg config: the weights {item.path} are not downloaded, {item.module or 'the model'} starts at random; "
            f"download the file and give its path"
        )
    return SegmentorConfig(whole, tuple(item for item in weights if item not in remote), dict(preprocessor))


def _merged(base: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value) if isinstance(value, Mapping) else _plain(value)
    return merged


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a mapping would be taken from a stranger, and so from a checkpoint."""
    try:
        _check_tree(config)
    except MmsegConfigError:
        return False
    return True


def _check_keys(model: Any) -> None:
    """Say which key a segmentor misses that each one has."""
    if not isinstance(model, Mapping) or "type" not in model:
        raise MmsegConfigError("mmseg config: the key 'type' is missing; it names the segmentor, as EncoderDecoder")
    for part in ("backbone", "decode_head", "neck", "auxiliary_head"):
        if part in ("backbone", "decode_head") and not model.get(part):
            raise MmsegConfigError(f"mmseg config: the key {part!r} is missing")
        inner = model.get(part) or []
        for item in inner if isinstance(inner, list | tuple) else [inner]:
            if not isinstance(item, Mapping) or "type" not in item:
                raise MmsegConfigError(f"mmseg config: {part}: the key 'type' is missing")
    test = model.get("test_cfg") or {}
    for key in ("crop_size", "stride") if test.get("mode") == "slide" else ():
        if key not in test:
            raise MmsegConfigError(f"mmseg config: test_cfg: the key {key!r} is missing, which mode='slide' needs")
    if test.get("mode", "whole") not in ("slide", "whole"):
        raise MmsegConfigError(f"mmseg config: test_cfg.mode: got {test['mode']!r}; choose from slide, whole")


def find_shipped(name: str) -> Path:
    """Find a config that the installed mmsegmentation ships.

    Args:
        name: its path below ``configs`` without ``.py``, or the last part of it.

    Raises:
        MmsegConfigError: there is none of that name; a path or URL.
    """
    known = shipped_configs()
    if name in known:
        return known[name]
    found = [path for key, path in known.items() if key.rpartition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if _REMOTE.match(name):
        raise MmsegConfigError(f"mmseg config {name}: remote configs are off; name one that mmseg ships")
    if name.endswith(".py") or name.startswith(("/", ".", "~")):
        raise MmsegConfigError(
            f"mmseg config {name}: a .py config is a program and is refused; name one that mmseg ships, write it out, "
            f"or give mmengine.Config.fromfile(path) from a program of your own"
        )
    hint = nearest(name, [*known, *(key.rpartition("/")[2] for key in known)])
    raise MmsegConfigError(f"mmseg ships no config {name!r}{hint}")


@cache
def shipped_configs() -> dict[str, Path]:
    """Every config that the installed mmsegmentation ships, by name; those that others are made of are left out."""
    root = Path(str(import_mmseg("mmseg").__file__)).parent / ".mim" / "configs"
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.rglob("*.py"))
        if "_base_" not in path.parts
    }


def _load(path: Path) -> Any:
    from mmengine.config import Config

    try:
        return Config.fromfile(path)._cfg_dict
    except ImportError as error:  # of custom_imports, such as mmpretrain
        raise MmsegConfigError(f"mmseg config {path.stem}: {' '.join(str(error).split())}; install it") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _check_surroundings(whole: Mapping[str, Any]) -> None:
    for key in whole:
        if key not in _AROUND:
            raise MmsegConfigError(f"mmseg config: no key {key!r} is taken beside model{nearest(key, _AROUND)}")
    wanted = whole.get("custom_imports") or {}
    modules = wanted.get("imports", []) if isinstance(wanted, Mapping) else wanted
    for module in [modules] if isinstance(modules, str) else modules:
        import_module(module)  # opened by the user: _check_tree has seen to it


def _check_tree(value: Any, path: tuple[str, ...] = (), key: str = "") -> None:
    """Refuse what a stranger's config must not say."""
    where = ".".join(path) or "config"
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str) or name.startswith("_"):
                raise MmsegConfigError(f"mmseg config: {where}: the key {name!r} is refused: write the config out")
            _check_tree(inner, (*path, name), name)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_tree(inner, (*path, str(index)), key)
    elif key == "type":
        _check_type(value, where, initial="init_cfg" in path)
    elif isinstance(value, str):
        _check_text(value, where, key, path)
    elif key == "pretrained" and value not in (None, False):
        raise MmsegConfigError(f"mmseg config: {where}: got {value!r}; want the path of a file: nothing is downloaded")
    elif value is not None and not isinstance(value, bool | int | float):
        raise MmsegConfigError(f"mmseg config: {where}: got a {type(value).__name__}; want plain values")


def _check_type(name: Any, where: str, *, initial: bool) -> None:
    if not isinstance(name, str):
        raise MmsegConfigError(f"mmseg config: {where}: got {name!r}; want a registered name")
    known = set(_registered(initial=initial))
    if name in known:
        if name.rpartition(".")[2] in FETCHING:
            raise MmsegConfigError(f"mmseg config: {where}: {name} fetches files when it is built, and is refused")
        return
    if "." in name and is_opened(name):
        return
    if "." in name and name.split(".")[0] not in {item.split(".")[0] for item in known if "." in item}:
        top = name.lstrip(".").partition(".")[0]
        own = "" if top in sys.stdlib_module_names else f"; for a module of your own: --allow-import {top}"
        raise MmsegConfigError(
            f"mmseg config: {where}: importing {name} is refused: a type is a name that is registered already{own}"
        )
    raise MmsegConfigError(f"mmseg config: {where}: no type {name!r} is registered{nearest(name, known)}")


def _registered(*, initial: bool) -> Iterator[str]:
    """Names that mmengine finds without importing anything: in its root registries and those below mmseg."""
    from mmengine import registry as root
    from mmseg import registry as ours

    for kind in ("WEIGHT_INITIALIZERS",) if initial else ("MODELS", "TASK_UTILS"):
        for registry in (getattr(root, kind), getattr(ours, kind)):
            for name in registry.module_dict:
                yield name
                yield f"{registry.scope}.{name}"


def _check_text(value: str, where: str, key: str, path: tuple[str, ...]) -> None:
    if "custom_imports" in path:
        if not is_opened(value):
            raise MmsegConfigError(
                f"mmseg config: {where}: importing {value} is refused; for a module of your own: --allow-import "
                f"{value.lstrip('.').partition('.')[0]}"
            )
    elif _REMOTE.match(value):
        raise MmsegConfigError(f"mmseg config: {where}: {value} is remote, and refused; download it, give its path")
    elif key == "class_weight" or (key not in ("pretrained", "checkpoint", "load_from") and _reads(key)):
        raise MmsegConfigError(f"mmseg config: {where}: a file is refused here; write its numbers out")
    elif not _WORD.fullmatch(value) and key not in ("pretrained", "checkpoint", "load_from", "prefix"):
        raise MmsegConfigError(f"mmseg config: {where}: {value!r} is refused: text is a plain word here")


def _reads(key: str) -> bool:
    return any(part in key for part in ("pretrained", "checkpoint", "path", "file"))


def _take_weights(node: Any, path: tuple[str, ...], found: list[Pretrained]) -> None:
    """Take requests for weights out of a config: mmengine would fetch them, and read them by its own means."""
    if isinstance(node, list | tuple):
        for index, inner in enumerate(node):
            _take_weights(inner, (*path, str(index)), found)
        return
    if not isinstance(node, dict):
        return
    if isinstance(node.get("pretrained"), str):
        found.append(Pretrained(".".join(path or ("backbone",)), node.pop("pretrained")))
    initial = node.get("init_cfg")
    if isinstance(initial, dict | list | tuple):
        entries = [initial] if isinstance(initial, dict) else list(initial)
        kept = []
        for entry in entries:
            if str(entry.get("type")).rpartition(".")[2] != "Pretrained":
                kept.append(entry)
            elif isinstance(entry.get("checkpoint"), str):
                found.append(Pretrained(".".join(path), entry["checkpoint"], entry.get("prefix") or ""))
            else:
                raise MmsegConfigError(f"mmseg config: {'.'.join(path)}: init_cfg Pretrained has no 'checkpoint'")
        if kept:
            node["init_cfg"] = kept
        else:
            del node["init_cfg"]  # what the class has by default, which None would not be
    for key, inner in node.items():
        if key != "init_cfg":
            _take_weights(inner, (*path, key), found)


def _unsynchronise(node: Any) -> int:
    if isinstance(node, list | tuple):
        return sum(map(_unsynchronise, node))
    if not isinstance(node, dict):
        return 0
    here = isinstance(node.get("type"), str) and node["type"] in _SYNC
    if here:
        node["type"] = "BN"
    return here + sum(map(_unsynchronise, node.values()))
