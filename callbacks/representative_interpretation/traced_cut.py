"""A classifier cut in two by its traced graph, so that each part runs alone."""

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from fulgurite.callbacks.representative_interpretation.linearity import Operators
from fulgurite.callbacks.representative_interpretation.replayed_cut import is_idle
from fulgurite.callbacks.representative_interpretation.untouched import same_attributes


@dataclass(frozen=True)
class _Slot:
    """The place of a value in a run."""

    index: int


@dataclass(frozen=True)
class _Fixed:
    """A template of sizes, kept out of reach of what fills in values."""

    template: Any


@dataclass(frozen=True)
class _Step:
    """One operation of a program, with :class:`_Slot` where values of earlier ones go in."""

    kind: str
    target: Any
    args: Any
    kwargs: Any
    result: int
    done: tuple[int, ...]  # slots that nothing after this step reads


@dataclass(frozen=True)
class Place:
    """A value on the way from the images to the logits.

    Args:
        name: a module's path, whose output it is (with the number of the run where the module runs more than once), or
            the operation's name as torchvision's feature extraction gives it.
        index: of the node.
        shape: of the value for two images; ``None`` if it is no tensor.
        mixing: convolutions and matrix products up to it.
        crossing: names of other values from before it that are used behind it: it is a cut only where there are none.
    """

    name: str
    index: int
    shape: tuple[int, ...] | None
    mixing: int
    crossing: tuple[str, ...]


class Program(nn.Module):
    """A part of a traced module: its operations in order, on the module's own submodules and parameters.

    Unlike a ``GraphModule`` it has no class of its own and no cycle of references, and so leaves nothing behind for the
    garbage collector.

    Args:
        root: the module that was traced.
        steps: the operations.
        start: the slot of the input.
        end: the slot of the result.
    """

    def __init__(self, root: nn.Module, steps: Sequence[_Step], *, start: int, end: int) -> None:
        super().__init__()
        self.root = root
        self._steps = tuple(steps)
        self._start, self._end = start, end

    def forward(self, value: Tensor, note: Callable[[int, Any], None] | None = None) -> Any:
        """Run the operations on ``value``, letting go of what is not needed any longer.

        Args:
            value: the input.
            note: is handed the slot and the value of each result.
        """
        dtype = value.dtype
        values: dict[int, Any] = {self._start: value}
        del value
        for step in self._steps:
            values[step.result] = self._run(step, values, dtype)
            if note is not None:
                note(step.result, values[step.result])
            for slot in step.done:
                del values[slot]
        return values[self._end]

    def weights(self) -> list[str]:
        """Names of the parameters and buffers that the operations use, those of the same tensor too."""
        modules = {f"root.{step.target}" for step in self._steps if step.kind == "call_module"}
        alone = {f"root.{step.target}" for step in self._steps if step.kind == "get_attr"}
        names = [name for name, _ in self.named_parameters(remove_duplicate=False)]
        names += [name for name, _ in self.named_buffers(remove_duplicate=False)]
        return [name for name in names if name in alone or any(name.startswith(f"{path}.") for path in modules)]

    def _run(self, step: _Step, values: dict[int, Any], dtype: torch.dtype) -> Any:
        if step.kind == "get_attr":
            return _attribute(self.root, step.target, dtype)
        args, kwargs = (fx.node.map_aggregate(part, partial(_fill, values)) for part in (step.args, step.kwargs))
        if step.kind == "call_module":
            return self.root.get_submodule(step.target)(*args, **kwargs)
        if step.kind == "call_method":
            return getattr(args[0], step.target)(*args[1:], **kwargs)
        return step.target(*args, **kwargs)


@dataclass(frozen=True)
class Trace:
    """The graph of a classifier, and every place where it might be cut.

    Args:
        root: module from images to logits.
        nodes: of its graph, in order.
        places: by name, in the order in which they are computed.
        aliases: further names of places.
        runs: of modules that run more than once: the names of their outputs.
        opaque: modules with parts of their own that could not be looked into, by the name of their place.
        sizes: templates of the nodes that are sizes: ``None`` stands for the number of images.
        writing: nodes whose operators write into what they are given.
    """

    root: nn.Module
    nodes: tuple[fx.Node, ...]
    places: dict[str, Place]
    aliases: dict[str, str]
    runs: dict[str, tuple[str, ...]]
    opaque: dict[str, str]
    sizes: dict[int, Any]
    writing: frozenset[int]

    def whole(self) -> Program:
        """The classifier, images to logits."""
        return self.before(None)

    def before(self, place: Place | None) -> Program:
        """From the images to a place. In-place operations on the way stay, whether their results are used or not."""
        end = _output(self.nodes) if place is None else place.index
        return _program(self.root, self.nodes, range(1, end + 1), start=0, end=end)

    def behind(self, place: Place) -> Program:
        """From a place to the logits, without what does not lead there, such as probabilities beside them."""
        number = {node: index for index, node in enumerate(self.nodes)}
        known = {place.index}
        sizes = {}
        for index, node in enumerate(self.nodes):
            if node.op not in ("placeholder", "output") and index != place.index:
                if {number[other] for other in node.all_input_nodes} <= known:
                    known.add(index)
                elif index in self.sizes:
                    known.add(index)
                    sizes[index] = self.sizes[index]
        needed: set[int] = set()
        for index in reversed(sorted(known - {place.index})):
            # What writes may be needed for what it does to its input, though nothing reads its result.
            if index in needed or index == _output(self.nodes) or index in self.writing:
                needed.add(index)
                if index not in sizes:
                    needed.update(number[other] for other in self.nodes[index].all_input_nodes)
        steps = sorted(needed - {place.index})
        return _program(self.root, self.nodes, steps, start=place.index, end=_output(self.nodes), sizes=sizes)


def trace(root: nn.Module, images: Tensor) -> Trace | str:
    """Trace a classifier in evaluation mode, or say why it cannot be traced.

    Submodules that cannot be looked into (their code branches on values, say) stay whole. A module of other modules
    with hooks is not traced: what the hooks do would be traced as well.

    Args:
        root: from images to logits, with the user's network as its child ``model``.
        images: (B, …), at least one; shapes are read off runs with two and three of them.

    Example:
        >>> class Root(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        ...     def forward(self, images):
        ...         return self.model(images)
        >>> found = trace(Root(), torch.zeros(1, 1, 5, 5))
        >>> [(place.name, place.shape) for place in found.places.values()]
        [('0', (2, 4, 3, 3)), ('1', (2, 4, 3, 3)), ('2', (2, 36))]
    """
    tracer = _Tracer(autowrap_modules=(math,))
    for name, module in root.named_modules():
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        if hooked and not tracer.is_leaf_module(module, name):
            return f"hooks are registered on {name.removeprefix('model').removeprefix('.') or 'the model'!r}"
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Stand-ins for tensors are nothing that the network may meet again; constants are left in the root.
            with same_attributes(root.get_submodule("model")):
                nodes = tuple(tracer.trace(root).nodes)
            program = _program(root, nodes, range(1, _output(nodes) + 1), start=0, end=_output(nodes))
            two = _run_noting(program, images, 2)
            # What differs between the runs as they do is the number of images.
            three = _run_noting(program, images, 3) if two.values else two
    except Exception as error:  # whatever the code of others does with values that are not there yet
        return f"torch.fx cannot trace it ({type(error).__name__}: {(str(error) or '-').splitlines()[0]})"
    number = {node: index for index, node in enumerate(nodes)}
    sizes = _sizes_of(nodes, number, two.values, three.values)
    names, aliases, several = _names(number, tracer)
    places = _places(root, nodes, number, names, sizes, two)
    opaque = {aliases[path]: path for path in tracer.opaque if path in aliases}
    return Trace(
        root, nodes, {place.name: place for place in places}, aliases, several, opaque, sizes, frozenset(two.writing)
    )


class _Tracer(NodePathTracer):
    """Knows the output of each module, and keeps a module whole that cannot be looked into."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outputs: dict[str, list[fx.Node | None]] = {}
        self.opaque: set[str] = set()

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        """As ever, but that log_softmax is seen as the function that it is, which a classifier may take back."""
        return not isinstance(m, nn.LogSoftmax) and super().is_leaf_module(m, module_qualname)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        newest = next(reversed(self.graph.nodes))
        runs = {name: len(nodes) for name, nodes in self.outputs.items()}
        try:
            out = super().call_module(m, forward, args, kwargs)
        except Exception:
            if path == "model":
                raise
            while (node := next(reversed(self.graph.nodes))) is not newest:
                self.node_to_qualname.pop(node, None)
                self.graph.erase_node(node)
            self.outputs = {name: nodes[: runs[name]] for name, nodes in self.outputs.items() if name in runs}
            out = self.create_proxy("call_module", path, args, kwargs)
            if next(m.children(), None) is not None:
                self.opaque.add(path.removeprefix("model."))
        self.outputs.setdefault(path, []).append(out.node if isinstance(out, fx.Proxy) else None)
        return out


def _program(
    root: nn.Module,
    nodes: Sequence[fx.Node],
    wanted: Collection[int],
    *,
    start: int,
    end: int,
    sizes: Mapping[int, Any] | None = None,
) -> Program:
    number = {node: index for index, node in enumerate(nodes)}
    sizes = sizes or {}

    def slot_of(node: fx.Node) -> Any:
        return _Slot(number[node])

    last = {index: index for index in wanted}
    for index in wanted:
        used = [start] if index in sizes else [number[node] for node in nodes[index].all_input_nodes]
        last.update(dict.fromkeys(used, index))
    done: dict[int, list[int]] = {}
    for slot, index in last.items():
        if slot != end:
            done.setdefault(index, []).append(slot)
    steps = []
    for index in wanted:
        node, over = nodes[index], tuple(done.get(index, ()))
        if index in sizes:
            steps.append(_Step("call_function", _sized, (_Slot(start), _Fixed(sizes[index])), {}, index, over))
        else:
            args, kwargs = fx.node.map_arg(node.args, slot_of), fx.node.map_arg(node.kwargs, slot_of)
            steps.append(_Step(node.op, node.target, args, kwargs, index, over))
    return Program(root, steps, start=start, end=end)


@dataclass(frozen=True)
class _Run:
    """What a run gave, by node."""

    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    mixing: dict[int, int] = field(default_factory=dict)  # the operators that mix so far
    values: dict[int, Any] = field(default_factory=dict)  # that are no tensors
    writing: list[int] = field(default_factory=list)


def _run_noting(program: Program, images: Tensor, count: int) -> _Run:
    """Run a program on ``count`` images."""
    run, writes = _Run(), 0
    with Operators() as operators:

        def note(index: int, value: Any) -> None:
            nonlocal writes
            run.mixing[index] = operators.mixing
            if operators.writes > writes:
                writes = operators.writes
                run.writing.append(index)
            if isinstance(value, Tensor):
                run.shapes[index] = tuple(value.shape)
            else:
                run.values[index] = value

        program(images[torch.arange(count, device=images.device) % len(images)], note)
    return run


def _sizes_of(
    nodes: Sequence[fx.Node], number: Mapping[fx.Node, int], two: Mapping[int, Any], three: Mapping[int, Any]
) -> dict[int, Any]:
    """Values that depend on the shape of the images alone: constants, and what is the number of images."""
    sizes: dict[int, Any] = {}
    for index, node in enumerate(nodes):
        asks = (node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension")) or (
            node.target is getattr and node.args[1] in ("shape", "dtype", "device", "ndim")
        )
        follows = bool(node.all_input_nodes) and all(number[other] in sizes for other in node.all_input_nodes)
        if index in two and (asks or follows):
            template = _template(two[index], three.get(index))
            if template is not ...:
                sizes[index] = template
    return sizes


def _template(two: Any, three: Any) -> Any:
    if isinstance(two, tuple | list):
        parts = tuple(_template(*pair) for pair in zip(two, three, strict=True))
        return ... if ... in parts else parts
    if isinstance(two, int | float | str | torch.dtype | torch.device) and two == three:
        return two
    return None if (two, three) == (2, 3) else ...


def _sized(value: Tensor, fixed: "_Fixed") -> Any:
    """A template's sizes for the features at hand."""
    template = fixed.template
    if isinstance(template, tuple):
        return torch.Size(len(value) if part is None else part for part in template)
    if isinstance(template, torch.dtype):
        return value.dtype if template.is_floating_point else template
    if isinstance(template, torch.device):
        return value.device
    return len(value) if template is None else template


def _places(
    root: nn.Module,
    nodes: Sequence[fx.Node],
    number: Mapping[fx.Node, int],
    names: Mapping[int, str],
    sizes: Mapping[int, Any],
    run: _Run,
) -> list[Place]:
    reached = {0}
    for index, node in enumerate(nodes):
        if any(number[other] in reached for other in node.all_input_nodes):
            reached.add(index)
    # Who reads a value last, on the way to the logits; sizes are no way, they are known beforehand.
    last_use = {_output(nodes): len(nodes)}
    for index in reversed(range(len(nodes))):
        if index in last_use and index not in sizes:
            for other in nodes[index].all_input_nodes:
                last_use.setdefault(number[other], index)
    places, alive = [], [0]
    for index in range(1, _output(nodes) + 1):
        if index not in reached or index in sizes:
            continue
        alive = [other for other in alive if last_use.get(other, -1) > index]
        if index in names:
            around = [number[_given(root, nodes[other])] for other in reversed(alive)]
            crossing = tuple(names.get(other, "the images" if other == 0 else str(nodes[other])) for other in around)
            places.append(Place(names[index], index, run.shapes.get(index), run.mixing.get(index, 0), crossing))
        alive.append(index)
    return places


def _given(root: nn.Module, node: fx.Node) -> fx.Node:
    """The node whose value this one passes on as it is, as dropout in evaluation does; else the node itself."""
    idle = node.op == "call_module" and is_idle(root.get_submodule(str(node.target)))
    idle |= node.target in (nn.functional.dropout, nn.functional.dropout2d, torch.dropout)
    return _given(root, node.all_input_nodes[0]) if idle else node


def _names(
    number: Mapping[fx.Node, int], tracer: _Tracer
) -> tuple[dict[int, str], dict[str, str], dict[str, tuple[str, ...]]]:
    """One name a node: the outermost module that gives it and is no mere container; else the operation's.

    Returns:
        Names by node, further names, and the names of the runs of modules that run more than once.
    """
    found: dict[int, list[tuple[bool, bool, int, str]]] = {}
    several: dict[str, tuple[str, ...]] = {}
    outputs = {path.removeprefix("model."): nodes for path, nodes in tracer.outputs.items() if path != "model"}
    taken = set(outputs)
    for path, nodes in outputs.items():
        runs = (path,) if len(nodes) == 1 else tuple(_free(f"{path}_{run}", taken) for run in range(len(nodes)))
        if len(nodes) > 1:
            several[path] = runs
        module = tracer.root.get_submodule(f"model.{path}")
        worth = (type(module) is nn.Sequential, is_idle(module), len(path))
        for name, node in zip(runs, nodes, strict=True):
            if node is not None:
                found.setdefault(number[_given(tracer.root, node)], []).append((*worth, name))
    names = {index: min(options)[-1] for index, options in found.items()}
    aliases = {name: names[index] for index, options in found.items() for *_, name in options}
    for node, name in tracer.node_to_qualname.items():
        if node.op in ("call_function", "call_method"):
            name = _free(name.removeprefix("model."), taken)
            aliases[name] = names.setdefault(number[_given(tracer.root, node)], name)
    return names, aliases, several


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _output(nodes: Sequence[fx.Node]) -> int:
    result = nodes[-1].args[0]
    return next(index for index, node in enumerate(nodes) if node is result)


def _fill(values: Mapping[int, Any], part: Any) -> Any:
    if isinstance(part, _Slot):
        return values[part.index]
    return part


def _attribute(root: nn.Module, path: str, dtype: torch.dtype) -> Any:
    owner, _, name = path.rpartition(".")
    module = root.get_submodule(owner)
    value = getattr(module, name)
    plain = name not in module._parameters and name not in module._buffers
    if plain and isinstance(value, Tensor) and value.is_floating_point():
        value = value.clone() if value.is_inference() else value  # which no gradient can go past
        return value.to(dtype)  # a constant that no change of the weights' type reaches
    return value
