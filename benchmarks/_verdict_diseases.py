"""Diseases of the verdict suite: what each does to a trial that was well before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from _verdict_graphs import around, complete, dumbbells, with_junk, with_shortcuts
from _verdict_models import Squashed, Stack, head, layers
from torch import Tensor, nn
from torch_geometric.data import Data

__all__ = ["DISEASES", "SEVERITIES", "Disease", "Trial"]

SEVERITIES = ("mild", "moderate", "strong")


@dataclass(frozen=True)
class Trial:
    """A network at its start, what it runs on, and how it is to be trained."""

    model: nn.Module
    data: Data
    lr: float = 0.01
    epochs: int = 100


Levels = dict[str, float]
"""Severity to whatever number makes it severe."""


@dataclass(frozen=True)
class Disease:
    """What befalls a trial, and what a diagnosis should then say first."""

    accepted: tuple[str, ...]
    """Right first findings."""
    reason: str
    """Why these."""
    inflict: Callable[[Trial, float, int], Trial]
    """The trial, made ill: of a healthy one, the severity's level and a seed."""
    levels: Levels
    kinds: tuple[str, ...] = ("plain", "skip", "deep", "sum", "norm")
    """Kinds of architectures that it befalls."""
    trait: str = ""
    """What an architecture must have besides: ``"averages"``, ``"attention"``."""
    depths: dict[str, tuple[int, ...]] | None = None
    """Depths by severity. Default: those at which the architecture usually trains."""
    prepare: Callable[[Data, int], Data] | None = None
    """What the graphs are like on which it can do harm, for the twin as well."""
    cause_is_depth: bool = False
    """Whether the repaired twin is shallow, and "not a depth problem" is wrong."""


def _scale(trial: Trial, factor: float, seed: int) -> Trial:
    """All weight matrices of the layers times a number."""
    with torch.no_grad():
        for layer in layers(trial.model):
            for parameter in _matrices(layer):
                parameter.mul_(factor)
    return trial


def _zero(trial: Trial, share: float, seed: int) -> Trial:
    """That share of the layers starts at zero, weights and biases: the last ones."""
    chosen = layers(trial.model)
    count = math.ceil(share * len(chosen))
    with torch.no_grad():
        for layer in chosen[len(chosen) - count :]:
            for parameter in layer.parameters():
                parameter.zero_()
    return trial


def _orthogonal(trial: Trial, offset: float, seed: int) -> Trial:
    """Linear layers with orthogonal weights, and features that are not centred."""
    assert isinstance(trial.model, Stack), "all architectures that average are stacks"
    for layer in layers(trial.model):
        for weight in _matrices(layer):
            if min(weight.shape) > 1:
                nn.init.orthogonal_(weight)
    trial.model.act = nn.Identity()
    data = trial.data.clone()
    data.x = data.x + offset
    return replace(trial, data=data)


def _mixed(data: Data, seed: int) -> Data:
    """A graph on which averages are soon alike: from each node an edge anywhere."""
    return with_shortcuts(data, data.num_nodes, seed)


def _bottleneck(trial: Trial, bridge: float, seed: int) -> Trial:
    """Dumbbells of the same size with longer bridges."""
    return replace(trial, data=dumbbells(round(bridge), BOTTLENECK_SIZE, seed))


def _side_by_side(data: Data, seed: int) -> Data:
    """Dumbbells whose groups are joined node by node."""
    return dumbbells(1, BOTTLENECK_SIZE, seed, joined=True)


BOTTLENECK_SIZE = 20
"""Nodes of a group: enough for walks to get lost in it."""


def _dead(trial: Trial, bias: float, seed: int) -> Trial:
    """All hidden layers start with a negative bias."""
    with torch.no_grad():
        for layer in layers(trial.model):
            if layer is head(trial.model):
                continue
            for name, parameter in layer.named_parameters():
                if name.endswith("bias"):
                    parameter.fill_(bias)
    return trial


def _stuck_head(trial: Trial, rank: float, seed: int) -> Trial:
    """The head is frozen with a weight of low rank; of rank zero, its bias is zero."""
    module = head(trial.model)
    _lower_rank(module, round(rank))
    return _frozen(trial, module)


def _frozen_layer(trial: Trial, rank: float, seed: int) -> Trial:
    """The first layer is frozen with weights of low rank."""
    module = layers(trial.model)[0]
    _lower_rank(module, round(rank))
    return _frozen(trial, module)


def _frozen(trial: Trial, module: nn.Module) -> Trial:
    module.requires_grad_(False)
    return trial


def _noise(trial: Trial, share: float, seed: int) -> Trial:
    """That share of the training labels is drawn anew, among the other classes."""
    data, generator = trial.data.clone(), torch.Generator().manual_seed(seed)
    classes = int(data.y.max()) + 1
    chosen = data.train_mask & (torch.rand(len(data.y), generator=generator) < share)
    shift = torch.randint(1, classes, data.y.shape, generator=generator)
    data.y = torch.where(chosen, (data.y + shift) % classes, data.y)
    return replace(trial, data=data)


def _wrong_output(trial: Trial, kind: float, seed: int) -> Trial:
    """An activation behind the logits, before a loss that has its own."""
    return replace(trial, model=Squashed(trial.model, OUTPUTS[round(kind)]))


OUTPUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    nn.Softmax(dim=-1),
    nn.Softmax(dim=0),  # over the nodes, the wrong dimension
    F.relu,
)


def _constant(trial: Trial, kept: float, seed: int) -> Trial:
    """Every node has the mean features, but for a share of the columns."""
    data = trial.data.clone()
    width = data.num_features
    count = width - round(kept * width)
    x = data.x.clone()
    x[:, :count] = x[:, :count].mean(0)
    data.x = x
    return replace(trial, data=data)


def _small(data: Data, seed: int) -> Data:
    """The nodes around one of them: all pairs of all nodes are too many to train on."""
    return around(data, seed % data.num_nodes, 160)


def _complete(trial: Trial, share: float, seed: int) -> Trial:
    return replace(trial, data=complete(trial.data, share, seed))


def _uniform_attention(trial: Trial, share: float, seed: int) -> Trial:
    """Attention is frozen at zero in that share of the layers, the last ones."""
    chosen = layers(trial.model)
    for layer in chosen[len(chosen) - math.ceil(share * len(chosen)) :]:
        for name, parameter in layer.named_parameters():
            if any(part in name for part in ("att", "lin_query", "lin_key")):
                nn.init.zeros_(parameter)
                parameter.requires_grad_(False)
    return trial


def _junk(data: Data, seed: int) -> Data:
    return with_junk(data, number=12, loudness=1.0, seed=seed)


def _rate(trial: Trial, lr: float, seed: int) -> Trial:
    return replace(trial, lr=lr)


def _nan(trial: Trial, share: float, seed: int) -> Trial:
    """One layer has some weights that are not numbers: one at least."""
    generator = torch.Generator().manual_seed(seed)
    chosen = layers(trial.model)
    layer = chosen[int(torch.randint(len(chosen), (1,), generator=generator))]
    with torch.no_grad():
        for weight in _matrices(layer)[:1]:
            count = max(1, round(share * weight.numel()))
            place = torch.randperm(weight.numel(), generator=generator)[:count]
            weight.view(-1)[place] = math.nan
    return trial


def _well(trial: Trial, level: float, seed: int) -> Trial:
    return trial


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.dim() == 2]


def _lower_rank(module: nn.Module, rank: int) -> None:
    """Keep the first singular directions, and the size; of rank zero, nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            if rank == 0:
                parameter.zero_()
            elif parameter.dim() == 2:
                u, s, vh = torch.linalg.svd(parameter, full_matrices=False)
                low = u[:, :rank] * s[:rank] @ vh[:rank]
                parameter.copy_(low * (parameter.norm() / low.norm()))


FULL = 99
"""A rank that no weight exceeds."""

DISEASES: dict[str, Disease] = {
    "healthy": Disease(
        ("healthy",),
        "nothing is wrong; a note may come first",
        _well,
        dict.fromkeys(SEVERITIES, 0.0),
    ),
    "contraction": Disease(
        ("vanishing-gradients", "spurious-stationary-point"),
        "each layer shrinks what passes; seen backward first, and where the head can "
        "be trained the point where that ends",
        _scale,
        {"mild": 1.0, "moderate": 1.0, "strong": 0.7},
        kinds=("plain",),
        depths={"mild": (10, 12), "moderate": (20, 24), "strong": (20, 24)},
        cause_is_depth=True,
    ),
    "explosion": Disease(
        ("exploding-gradients", "non-finite"),
        "each layer enlarges what passes; beyond float32 it is not finite",
        _scale,
        {"mild": 2.0, "moderate": 10.0, "strong": 20.0},
        kinds=("plain", "skip", "sum"),
        depths={"mild": (6, 8), "moderate": (10, 12), "strong": (14, 16)},
        cause_is_depth=True,
    ),
    "collapse-to-zero": Disease(
        ("exactly-zero", "vanishing-gradients", "over-smoothing-to-zero"),
        "a state is zero or nearly so; which of the three comes first depends on "
        "whether float32 still sees it",
        _zero,
        {"mild": 0.01, "moderate": 0.5, "strong": 1.0},
        kinds=("plain",),
    ),
    "collapse-to-constants": Disease(
        ("over-smoothing-to-constants", "spurious-stationary-point"),
        "averages over averages; the stationary point is the same seen backward",
        _orthogonal,
        {"mild": 0.5, "moderate": 1.0, "strong": 1.0},
        trait="averages",
        prepare=_mixed,
        depths={"mild": (10, 12), "moderate": (20, 24), "strong": (24, 32)},
        cause_is_depth=True,
    ),
    "bottleneck": Disease(
        ("over-squashing",),
        "what is asked for lies behind a bridge",
        _bottleneck,
        {"mild": 2, "moderate": 4, "strong": 4},
        kinds=("skip", "deep"),
        depths={"mild": (8,), "moderate": (16,), "strong": (16, 18)},
        prepare=_side_by_side,
    ),
    "dead-units": Disease(
        ("dead-units", "exactly-zero"),
        "units are switched off; all of a layer's leave an exact zero",
        _dead,
        {"mild": -0.5, "moderate": -3.0, "strong": -10.0},
        kinds=("plain",),
    ),
    "stuck-head": Disease(
        ("stuck-head", "frozen-layers"),
        "the head cannot follow, though a trained one could do much better; where the "
        "head is a layer of message passing, it is a frozen layer as well",
        _stuck_head,
        {"mild": FULL, "moderate": 1, "strong": 0},
    ),
    "label-noise": Disease(
        ("label-noise",),
        "training labels contradict the features and the validation labels",
        _noise,
        {"mild": 0.2, "moderate": 0.6, "strong": 0.85},
    ),
    "wrong-output": Disease(
        ("wrong-output-activation",),
        "the loss expects logits",
        _wrong_output,
        {"mild": 0, "moderate": 1, "strong": 2},
    ),
    "constant-features": Disease(
        ("constant-features",),
        "no node differs from another before the first layer",
        _constant,
        {"mild": 0.7, "moderate": 0.0, "strong": 0.0},
    ),
    "complete-graph": Disease(
        ("complete-graph",),
        "one layer makes all nodes the same; the graph is the cause",
        _complete,
        {"mild": 0.9, "moderate": 0.95, "strong": 1.0},
        prepare=_small,
    ),
    "uniform-attention": Disease(
        ("uniform-attention",),
        "good neighbours and junk count alike",
        _uniform_attention,
        {"mild": 0.5, "moderate": 1.0, "strong": 1.0},
        trait="attention",
        prepare=_junk,
    ),
    "learning-rate": Disease(
        ("learning-rate",),
        "the loss jumps or diverges",
        _rate,
        {"mild": 0.05, "moderate": 1.0, "strong": 5.0},
    ),
    "frozen-layer": Disease(
        ("frozen-layers",),
        "a frozen layer lets too little through",
        _frozen_layer,
        {"mild": FULL, "moderate": 1, "strong": 1},
        kinds=("plain", "norm", "sum"),
    ),
    "nan": Disease(
        ("non-finite",),
        "a weight is not a number",
        _nan,
        {"mild": 0.0, "moderate": 0.1, "strong": 1.0},
    ),
}
