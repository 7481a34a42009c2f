"""Evolve networks for classification with neat-python, a whole generation evaluated in one call."""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.population import SparsePopulation

# Rates of neat-python's own examples, less the mutation of responses; hidden nodes draw their activation.
_CONFIG = """
[NEAT]
fitness_criterion = max
fitness_threshold = 0
no_fitness_termination = True
pop_size = {population}
reset_on_extinction = True

[ClassifierGenome]
activation_default = random
activation_mutate_rate = 0.05
activation_options = tanh relu gauss identity
aggregation_default = sum
aggregation_mutate_rate = 0.0
aggregation_options = sum
bias_init_mean = 0.0
bias_init_stdev = 0.5
bias_max_value = 30.0
bias_min_value = -30.0
bias_mutate_power = 0.3
bias_mutate_rate = 0.5
bias_replace_rate = 0.05
compatibility_disjoint_coefficient = 1.0
compatibility_weight_coefficient = 0.5
conn_add_prob = 0.5
conn_delete_prob = 0.2
enabled_default = True
enabled_mutate_rate = 0.0
feed_forward = True
initial_connection = partial_direct {connected}
node_add_prob = 0.3
node_delete_prob = 0.1
num_hidden = 0
num_inputs = {num_inputs}
num_outputs = {num_outputs}
response_init_mean = 1.0
response_init_stdev = 0.0
response_max_value = 30.0
response_min_value = -30.0
response_mutate_power = 0.0
response_mutate_rate = 0.0
response_replace_rate = 0.0
single_structural_mutation = False
structural_mutation_surer = default
weight_init_mean = 0.0
weight_init_stdev = 1.0
weight_max_value = 30.0
weight_min_value = -30.0
weight_mutate_power = 0.5
weight_mutate_rate = 0.8
weight_replace_rate = 0.1

[DefaultSpeciesSet]
compatibility_threshold = 3.0

[DefaultStagnation]
species_fitness_func = max
max_stagnation = 15
species_elitism = 2

[DefaultReproduction]
elitism = 2
survival_threshold = 0.2
min_species_size = 2
"""


@dataclass(frozen=True, eq=False)
class Evolved:
    """What evolution found.

    Attributes:
        network: the best genome of all generations, converted.
        genome: that genome, neat-python's.
        config: the configuration it was evolved under, neat-python's.
        fitness: of the best genome of each generation: minus its mean cross-entropy.
    """

    network: SparseNetwork
    genome: Any
    config: Any
    fitness: tuple[float, ...]


def evolve_classifier(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    population: int = 150,
    generations: int = 30,
    connected: float = 0.25,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Evolved:
    """Evolve topology and weights of a classifier by NEAT, every generation evaluated as one population.

    K. O. Stanley and R. Miikkulainen, "Evolving Neural Networks through Augmenting Topologies",
    `doi:10.1162/106365602320169811 <https://doi.org/10.1162/106365602320169811>`__, as neat-python has it (extra
    ``fulgurite[neat]``). The fitness of a genome is minus its mean cross-entropy; its outputs are logits, so their
    activation stays the identity.

    Python's global random state, which neat-python draws from, is as it was afterwards. Equal seeds give equal networks
    on one machine.

    Args:
        features: (B, F) all rows, on the CPU.
        labels: (B,) class numbers.
        num_classes: C, outputs.
        population: genomes in a generation.
        generations: how many.
        connected: share of the connections from inputs to outputs that a first genome has.
        seed: of evolution.
        progress: called after each generation with its number and best fitness.

    Raises:
        ImportError: neat-python is not installed.
        ValueError: an option out of range.

    Example:
        >>> features = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(4, 1)
        >>> labels = (features.sum(dim=1) > 0.5).long()
        >>> found = evolve_classifier(features, labels, num_classes=2, population=30, generations=3)
        >>> found.network(features).shape, len(found.fitness)
        (torch.Size([16, 2]), 3)
    """
    if population < 4 or generations < 1:
        raise ValueError(f"got population={population}, generations={generations}; want at least 4 and 1")
    if not 0 <= connected <= 1:
        raise ValueError(f"got connected={connected}; want a share from 0 to 1")
    neat = _import_neat()
    config = _config(neat, features.shape[1], num_classes, population, connected)
    fitness: list[float] = []

    def evaluate(genomes: Sequence[tuple[int, Any]], config: Any) -> None:
        networks = [SparseNetwork.from_genome(genome, config) for _, genome in genomes]
        for (_, genome), loss in zip(genomes, losses(networks, features, labels).tolist(), strict=True):
            genome.fitness = -loss
        fitness.append(max(genome.fitness for _, genome in genomes))
        if progress is not None:
            progress(len(fitness), fitness[-1])

    state = random.getstate()
    try:
        random.seed(seed)
        best = neat.Population(config).run(evaluate, generations)
    finally:
        random.setstate(state)
    return Evolved(SparseNetwork.from_genome(best, config), best, config, tuple(fitness))


@torch.no_grad()
def losses(networks: Sequence[SparseNetwork], features: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each of many unlike networks, computed in one call; not a number counts as infinite.

    Args:
        networks: P networks of F inputs and C outputs.
        features: (B, F).
        labels: (B,) class numbers.

    Returns:
        (P,)

    Example:
        >>> networks = [SparseNetwork([[0, node]], num_inputs=1, outputs=[1, 2], num_nodes=3) for node in (1, 2)]
        >>> losses(networks, torch.ones(4, 1), torch.zeros(4, dtype=torch.long)).shape
        torch.Size([2])
    """
    logits = SparsePopulation(networks)(features)  # (P, B, C)
    many = len(networks), len(labels)
    each = functional.cross_entropy(logits.flatten(0, 1), labels.expand(many).flatten(), reduction="none")
    return each.view(many).mean(dim=1).nan_to_num(float("inf"), posinf=float("inf")).clamp(max=1e9)


def _config(neat: Any, num_inputs: int, num_outputs: int, population: int, connected: float) -> Any:
    text = _CONFIG.format(population=population, connected=connected, num_inputs=num_inputs, num_outputs=num_outputs)
    # neat-python reads its configuration from files only.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "neat.ini"
        path.write_text(text, encoding="utf-8")
        parts = (_genome_type(), neat.DefaultReproduction, neat.DefaultSpeciesSet, neat.DefaultStagnation)
        return neat.Config(*parts, str(path))


@cache
def _genome_type() -> type:
    """A genome whose outputs are logits; made on demand, since its base class is neat-python's."""
    base: Any = _import_neat().DefaultGenome

    class ClassifierGenome(base):
        """A genome whose output nodes keep the identity as their activation."""

        def configure_new(self, config: Any) -> None:
            super().configure_new(config)
            self.keep_logits(config)

        def mutate(self, config: Any) -> None:
            super().mutate(config)
            self.keep_logits(config)

        def keep_logits(self, config: Any) -> None:
            for key in config.output_keys:
                self.nodes[key].activation = "identity"

    return ClassifierGenome


def _import_neat() -> Any:
    try:
        return import_module("neat")
    except ImportError as error:
        raise ImportError(
            f"evolution needs the neat-python package, which is not installed ({error}); "
            'run: pip install "fulgurite[neat]"'
        ) from error
