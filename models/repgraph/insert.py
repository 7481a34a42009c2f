"""Put a context layer behind a stage of any backbone; everything pretrained keeps its name."""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.models.repgraph.block import ContextBlock2d
from fulgurite.models.repgraph.contexts import build_context, build_layer
from fulgurite.models.repgraph.layer import RepGraph2d

# The child that a stage gets where nothing can be appended to it.
_CHILD = "context"
# Sides of the image that finds out channels; some networks take only their own, or none below a size.
_PROBES = (64, 224)


class InsertError(ValueError):
    """A context layer cannot be put where it is wanted."""


def insert_context(
    model: nn.Module,
    stage: str,
    context: type[nn.Module] | str = RepGraph2d,
    *,
    in_channels: int | None = None,
    **options: Any,
) -> nn.Module:
    """Put one context layer behind a stage of a backbone; the model is changed, every parameter keeps its name.

    An ``nn.Sequential`` gets the layer as its last element: ``layer3.6`` of a ResNet-50. Any other stage gets it as a
    child ``context``, through which its output goes. Either way weights that fit before fit after: load them before, or
    after with ``strict=False``. The new layer is the identity until it is trained.

    Args:
        model: the backbone, or a network that has it inside.
        stage: the stage's name within the model: ``layer3``, ``stages.2``, ``backbone.body.layer4``.
        context: the layer's class, or a name of :func:`~fulgurite.models.repgraph.contexts.build_context`.
        in_channels: the stage's output channels. Found by showing the model an empty image, where not given.
        options: the layer's own.

    Returns:
        The new layer, on the stage's device and of its type.

    Raises:
        InsertError: no such stage (the nearest name is given); a context layer is there already; the stage does not
            give a map (B, C, H, W), or what it gives cannot be found out.
        ValueError: an option that the layer does not have, or one out of range.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = resnet18()
        >>> names = set(model.state_dict())
        >>> layer = insert_context(model, "layer3", RepGraph2d, num_nodes=4)
        >>> layer is model.layer3[2], names <= set(model.state_dict())
        (True, True)
    """
    module = _find(model, stage)
    for name, child in module.named_children():
        if isinstance(child, ContextBlock2d) or name == _CHILD:
            raise InsertError(
                f"{stage!r} has a {type(child).__name__} already, as {stage}.{name}; remove one of the two"
            )
    if in_channels is None:
        in_channels = _output_channels(model, module, stage)
    if isinstance(context, str):
        layer = build_context(context, in_channels, **options)
    else:
        layer = build_layer(context, in_channels, **options)
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is not None:
        layer.to(like.device, like.dtype)
    layer.train(module.training)
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        module.append(layer)
    else:
        module.add_module(_CHILD, layer)
        module.register_forward_hook(_through_context)
    return layer


def _through_context(module: nn.Module, args: object, output: Tensor) -> Tensor:
    # A plain function: copies and pickles of the model find their own layer.
    return module.get_submodule(_CHILD)(output)


def _find(model: nn.Module, stage: str) -> nn.Module:
    names = [name for name, _ in model.named_modules() if name]
    if stage in names:
        return model.get_submodule(stage)
    near = difflib.get_close_matches(stage, names, n=1)
    there = ", ".join(name for name, _ in model.named_children())
    hint = f"the nearest is {near[0]!r}" if near else "none is near"
    raise InsertError(f"{type(model).__name__} has no stage {stage!r}; {hint}; at its top it has {there or 'nothing'}")


class _ReachedError(Exception):
    pass


def _output_channels(model: nn.Module, module: nn.Module, stage: str) -> int:
    """Show the model an empty image, and stop where the stage has answered."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise InsertError(f"{type(model).__name__} has no 2-d convolution to tell its input by; give in_channels")
    found: list[object] = []

    def stop(module: nn.Module, args: object, output: object) -> None:
        found.append(output)
        raise _ReachedError

    handle = module.register_forward_hook(stop)
    training = {m: m.training for m in model.modules()}
    model.eval()
    reason = ""
    try:
        for side in _PROBES:
            image = torch.zeros(1, first.in_channels, side, side, device=first.weight.device, dtype=first.weight.dtype)
            try:
                with torch.no_grad():
                    model(image)
                reason = "the model answers without calling it"
            except _ReachedError:
                break
            except Exception as error:  # the network is a stranger's: whatever it raises, channels have to be given
                reason = f"on an empty image of {side} × {side} it raises {type(error).__name__}: {error}".splitlines()[
                    0
                ]
    finally:
        handle.remove()
        for m, was in training.items():
            m.training = was
    if not found:
        raise InsertError(f"cannot find out what {stage!r} gives: {reason}; give in_channels")
    output = found[-1]
    if not isinstance(output, Tensor) or output.ndim != 4:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InsertError(f"{stage!r} gives {got}; want a map (B, C, H, W): choose a stage that gives one")
    return output.shape[1]
