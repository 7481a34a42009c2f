"""Looking into a network in the middle of somebody's run, and leaving all of it as it was."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_entered: ContextVar[tuple[nn.Module, ...]] = ContextVar("networks that are looked into", default=())
_MISSING = object()
_OF_TORCH = frozenset(nn.Module().__dict__)


@contextmanager
def untouched(model: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Evaluation of a network with gradients, wherever it is called from; everything is put back on leaving.

    Inside, every submodule is in evaluation mode, inference mode is off and gradients are on (``trainer.validate``,
    ``test`` and ``predict`` run under ``torch.inference_mode``, where ``enable_grad`` alone gives no graph), autocast
    and TF32 are off, and functions made by ``torch.compile`` run as they were written. Tensors that were made in
    inference mode must be cloned before gradients go through them.

    Restored bit by bit, after an exception too: ``training`` of each submodule (a frozen BatchNorm stays frozen),
    buffers, ``requires_grad`` and ``.grad`` of each parameter, plain attributes as by :func:`same_attributes`, and the
    random states of Python, NumPy and torch on the CPU and the devices in use. What forward hooks of others keep
    elsewhere is not known here. Entered again for the same network, or for a part of it, it does nothing.

    Args:
        model: any module; a LightningModule may be attached to its trainer.
        seed: seeds torch's, NumPy's and Python's random numbers inside; ``None``: they go on as they are.

    Raises:
        ValueError: a BatchNorm without running statistics: each image's answer would depend on its batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with torch.inference_mode(), untouched(model):
        ...     point = torch.ones(1, 2, requires_grad=True)
        ...     (gradient,) = torch.autograd.grad(model(point).sum(), point)
        >>> model.training, tuple(gradient.shape), model[0].weight.grad
        (True, (1, 2), None)
    """
    if any(model is part for other in _entered.get() for part in other.modules()):
        yield
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"got a BatchNorm without running statistics ({name!r}), with which an image's logits depend on its "
                "batch; expected track_running_stats=True; give the layer statistics, or normalise otherwise"
            )
    with ExitStack() as stack:
        entered = _entered.set((*_entered.get(), model))
        stack.callback(_entered.reset, entered)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_random_numbers(seed))
        stack.enter_context(_full_precision())
        for device in sorted({"cpu", *(tensor.device.type for tensor in _tensors(model))} - {"meta"}):
            stack.enter_context(torch.autocast(device, enabled=False))
        if "torch._dynamo" in sys.modules:  # where nothing was compiled it is not loaded, and loading takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_state(model))
        yield


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


@contextmanager
def same_attributes(model: nn.Module) -> Iterator[None]:
    """What modules keep in plain attributes is put back on leaving: counters, the last activations, and the like.

    Of lists, dictionaries and sets the entries as well, one level deep; not the numbers in a tensor that is written to.

    Args:
        model: whose modules it is.

    Example:
        >>> model = nn.Identity()
        >>> model.seen, model.count = [], 0
        >>> with same_attributes(model):
        ...     model.seen.append("an image")
        ...     model.count += 1
        ...     model.last = "an image"
        >>> model.seen, model.count, hasattr(model, "last")
        ([], 0, False)
    """
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    inside = [
        (value, value.copy())
        for _, attributes in before
        for name, value in attributes.items()
        # Modules, parameters and hooks are not attributes to those who write modules: they have names of their own.
        if type(value) in (list, dict, set) and name not in _OF_TORCH
    ]
    try:
        yield
    finally:
        for module, attributes in before:
            now = module.__dict__
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update((name, value) for name, value in attributes.items() if now.get(name, _MISSING) is not value)
        for value, copy in inside:
            if not _same_entries(value, copy):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(copy)


def _same_entries(value: Any, copy: Any) -> bool:
    """By identity: entries may be arrays, whose comparison is none."""
    if len(value) != len(copy):
        return False
    if isinstance(value, dict):
        return all(one is other and value[one] is copy[other] for one, other in zip(value, copy, strict=True))
    return (
        all(one is other for one, other in zip(value, copy, strict=True)) if isinstance(value, list) else value == copy
    )


@contextmanager
def _state(model: nn.Module) -> Iterator[None]:
    """Evaluation mode by attribute: ``train`` and ``eval`` may be overridden, and act on all children alike."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    with ExitStack() as stack:  # which goes on where one thing cannot be put back
        stack.enter_context(same_attributes(model))
        for module, training in modes:
            stack.callback(setattr, module, "training", training)
            module.training = False
        for parameter, requires_grad, grad in parameters:
            stack.callback(_put_back, parameter, requires_grad, grad)
            if grad is not None:  # a backward pass inside would add to the very tensor that the optimiser waits for
                parameter.grad = None
        for module, name, buffer, copy in buffers:
            stack.callback(_put_values_back, module, name, buffer, copy)
        yield


def _put_back(parameter: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    if parameter.grad is not grad:
        parameter.grad = grad
    if parameter.requires_grad != requires_grad:  # of what was made in inference mode it cannot be set at all
        parameter.requires_grad_(requires_grad)


def _put_values_back(module: nn.Module, name: str, buffer: Tensor, copy: Tensor) -> None:
    # By value: kernels move running statistics without counting that as a version of the tensor.
    if not torch.equal(buffer, copy):
        with torch.no_grad(), torch.inference_mode(buffer.is_inference()):
            buffer.copy_(copy)
    if module._buffers.get(name) is not buffer:
        module._buffers[name] = buffer


@contextmanager
def _random_numbers(seed: int | None) -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    generators = [torch.default_generator, *(torch.cuda.default_generators[device] for device in devices)]
    if torch.backends.mps.is_available():
        generators.append(torch.mps._get_default_mps_generator())
    before: list[Any] = [generator.get_state() for generator in generators]
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        if seed is not None:
            # Not torch.manual_seed: on a device that is not in use yet it would seed what comes after us.
            for generator in generators:
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 in float32: neither TF32 nor bfloat16 inside the kernels."""
    backends: Any = torch.backends  # whose parts are modules that are made when torch is imported
    # From the general to the particular: what only inherits its precision is right by then, and stays inherited.
    settings = [backends, backends.mkldnn, backends.cudnn]
    settings += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    settings += [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    before = [setting.fp32_precision for setting in settings]
    legacy: list[Callable[[], None]] = []
    try:
        # The older flags first: reading one that contradicts the newer settings is an error, in anybody's code.
        with suppress(RuntimeError):
            if (precision := torch.get_float32_matmul_precision()) != "highest":
                torch.set_float32_matmul_precision("highest")
                legacy.append(partial(torch.set_float32_matmul_precision, precision))
        with suppress(RuntimeError):
            if backends.cudnn.allow_tf32:
                backends.cudnn.allow_tf32 = False
                legacy.append(partial(setattr, backends.cudnn, "allow_tf32", True))
        for setting in settings:
            if setting.fp32_precision in ("tf32", "bf16"):
                setting.fp32_precision = "ieee"
        yield
    finally:
        for back in legacy:
            back()
        for setting, value in zip(settings, before, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = value
