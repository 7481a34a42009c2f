"""From neat-python's genomes to sparse networks, and trained weights back."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.convert.named_network import named_network
from fulgurite.models.sparse_network.network import SparseNetwork

Key = int
Connection = tuple[Key, Key]


def from_genome(
    genome: Any, config: Any, *, activations: Mapping[str, str] | None = None, steps: int | None = None, **options: Any
) -> SparseNetwork:
    r"""Turn a genome of neat-python into a network that computes what its ``FeedForwardNetwork`` computes.

    Every node is :math:`φ(b + r · \mathrm{agg}_e(w_e x_e))` with bias b, response r, and the activation and aggregation
    of its gene, in neat-python's scaling (its ``tanh`` is tanh(2.5 z); here ``neat_tanh``). Disabled connections and
    nodes that no output needs are left out; a node without connections is φ(b). Inputs keep their order; the outputs
    come next, then hidden nodes by key: ``net.node_names[i]`` is the key of the gene that node i came from.

    Only attributes are read, so any object with neat-python's ``nodes``, ``connections`` and ``genome_config`` works,
    whether or not neat-python is installed.

    Args:
        genome: has ``nodes`` {key: gene with bias, response, activation, aggregation} and ``connections``
            {(source, target): gene with weight, enabled}.
        config: neat-python's ``Config``, or its ``genome_config``.
        activations: our name for each activation function that you registered with neat-python yourself.
        steps: for recurrent genomes: so many synchronous updates from zero with the same input, which is what
            ``RecurrentNetwork.activate``, called so often, gives. As there, nodes without connections are 0.
        options: passed on to :class:`~fulgurite.models.sparse_network.SparseNetwork` (``backend``, ``dtype``, …).

    Returns:
        a network of (…, inputs) → (…, outputs). It has a ``response`` parameter if some response is not 1.

    Raises:
        TopologyError: the genome is recurrent and ``steps`` is not given; one cycle is told by keys.
        ValueError: a function that is not neat-python's own, or a connection to a node that is not there.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace as Gene
        >>> config = Gene(input_keys=[-1, -2], output_keys=[0])
        >>> genome = Gene(
        ...     nodes={0: Gene(bias=0.5, response=1.0, activation="relu", aggregation="sum")},
        ...     connections={(-1, 0): Gene(weight=2.0, enabled=True), (-2, 0): Gene(weight=9.0, enabled=False)},
        ... )
        >>> net = from_genome(genome, config)
        >>> net.node_names, net(torch.tensor([[1.0, 1.0]])).tolist()
        ((-1, -2, 0), [[2.5]])
    """
    settings = getattr(config, "genome_config", config)
    inputs, outputs = list(settings.input_keys), list(settings.output_keys)
    weights = {key: gene.weight for key, gene in genome.connections.items() if gene.enabled}
    required = _required(outputs, weights, inputs)
    if missing := sorted(required - genome.nodes.keys()):
        raise ValueError(f"the genome has connections from or to the nodes {missing}, which it does not have")
    weights = {(source, target): weight for (source, target), weight in weights.items() if target in required}

    computed = outputs + sorted(required.difference(outputs))
    genes = [genome.nodes[key] for key in computed]
    phi = [_activation(gene.activation, settings, activations or {}) for gene in genes]
    aggregation = [_aggregation(gene.aggregation, settings) for gene in genes]
    bias, response = [float(gene.bias) for gene in genes], [float(gene.response) for gene in genes]
    if steps is not None:
        fed = {target for _, target in weights}
        for index, key in enumerate(computed):
            if key not in fed:  # stays 0, in training too: relu passes no gradient at 0
                phi[index], aggregation[index], bias[index], response[index] = "relu", "sum", 0.0, 1.0

    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    return named_network(
        inputs + computed,
        list(weights),
        num_inputs=len(inputs),
        outputs=outputs,
        activation=["identity"] * len(inputs) + phi,
        aggregation=["sum"] * len(inputs) + aggregation,
        weight=torch.tensor(list(weights.values()), dtype=dtype),
        bias=torch.tensor(bias, dtype=dtype),
        response=None if all(value == 1 for value in response) else torch.tensor(response, dtype=dtype),
        steps=steps,
        dtype=dtype,
        **options,
    )


def genome_update(genome: Any, net: SparseNetwork, *, config: Any = None) -> None:
    """Write a network's weights, biases and responses back into the genome that it came from.

    So what training learned is inherited: the network of the genome then computes what ``net`` computes. A connection
    that was pruned from the network becomes disabled; genes that the network does not have stay as they are.

    Args:
        genome: the genome, or a copy of it.
        net: made by :func:`from_genome`.
        config: neat-python's ``Config``; values are then held within its bounds (``weight_max_value`` and so on).

    Raises:
        ValueError: the network has edges or nodes that the genome lacks, or a value is not finite; the genome is
            unchanged then.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace as Gene
        >>> config = Gene(input_keys=[-1], output_keys=[0])
        >>> genome = Gene(
        ...     nodes={0: Gene(bias=0.5, response=1.0, activation="relu", aggregation="sum")},
        ...     connections={(-1, 0): Gene(weight=2.0, enabled=True)},
        ... )
        >>> net = from_genome(genome, config)
        >>> _ = torch.nn.init.constant_(net.weight, 3.0)
        >>> genome_update(genome, net)
        >>> genome.connections[-1, 0].weight
        3.0
    """
    names = getattr(net, "node_names", None)
    if names is None or len(names) != net.num_nodes:
        raise ValueError("the network has no node_names; want one that from_genome made")
    edges = [(names[source], names[target]) for source, target in net.edges.tolist()]
    weights = dict(zip(edges, net.weight.tolist(), strict=True))
    fed = {target for _, target in edges}
    # What steps= held at 0 in place of a node without connections is not the gene's.
    computed = [key if net.steps is None or key in fed else None for key in names[net.num_inputs :]]
    written = {"weight": weights}
    for attribute in ("bias", "response"):
        parameter = getattr(net, attribute)
        values = [] if parameter is None else parameter.tolist()
        written[attribute] = {
            key: value for key, value in zip(computed, values, strict=parameter is not None) if key is not None
        }

    unknown: list[Any] = [edge for edge in weights if edge not in genome.connections]
    unknown += [key for key in written["bias"] if key not in genome.nodes]
    if unknown:
        raise ValueError(f"the genome has no gene for {unknown[:5]}; want the genome that the network was made from")
    for attribute, values_by_key in written.items():
        for key, value in values_by_key.items():
            if not math.isfinite(value):
                raise ValueError(f"{attribute} of {key} is {value}; training went wrong, and nothing was written")

    for attribute, values_by_key in written.items():
        genes = genome.connections if attribute == "weight" else genome.nodes
        for key, value in values_by_key.items():
            setattr(genes[key], attribute, _bounded(value, attribute, config))
    known = set(names)
    for edge, gene in genome.connections.items():
        if gene.enabled and known.issuperset(edge) and edge not in weights:
            gene.enabled = False


def _required(outputs: Iterable[Key], connections: Iterable[Connection], inputs: Iterable[Key]) -> set[Key]:
    """Nodes from which an output can be reached; inputs apart."""
    sources = defaultdict(list)
    for source, target in connections:
        sources[target].append(source)
    required = set(outputs)
    waiting = list(required)
    while waiting:
        fresh = set(sources[waiting.pop()]).difference(required, inputs)
        required |= fresh
        waiting += fresh
    return required


def _activation(name: str, settings: Any, named: Mapping[str, str]) -> str:
    if name in named:
        return named[name]
    own = f"neat_{name}"
    if own not in ACTIVATIONS or _is_users(name, getattr(settings, "activation_defs", None), "neat.activations"):
        raise ValueError(
            f"{name!r} is no activation function of neat-python's own; if it is one of {', '.join(ACTIVATIONS)}, "
            f"pass activations={{{name!r}: that name}}"
        )
    return own


def _aggregation(name: str, settings: Any) -> str:
    defined = getattr(settings, "aggregation_function_defs", None)
    if name not in AGGREGATIONS or _is_users(name, defined, "neat.aggregations"):
        raise ValueError(f"{name!r} is no aggregation function of neat-python's own; want {', '.join(AGGREGATIONS)}")
    return name


def _is_users(name: str, defined: Any, home: str) -> bool:
    """Whether the user registered a function of their own under a name of neat-python's."""
    function = getattr(defined, "functions", {}).get(name)
    return function is not None and function.__module__ != home


def _bounded(value: float, attribute: str, config: Any) -> float:
    if config is None:
        return value
    settings = getattr(config, "genome_config", config)
    low, high = (getattr(settings, f"{attribute}_{end}_value") for end in ("min", "max"))
    return max(min(value, high), low)
