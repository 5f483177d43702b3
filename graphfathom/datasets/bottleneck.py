"""Dumbbells: two dense groups and a bridge, and a task that needs what is beyond it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch_geometric.data import Data

__all__ = ["dumbbell"]


def dumbbell(
    group_size: int,
    bridge_length: int,
    num_classes: int = 5,
    density: float = 1.0,
    noise: float = 0.1,
    *,
    seed: int,
) -> Data:
    r"""Draw two groups joined by a path: one knows what the other is asked.

    .. math:: y_i = c, \qquad x_i = e_c [i \in \text{right}] + \sigma \varepsilon_i,
        \qquad c \sim \mathrm{Uniform}\{1, \dots, C\}, \quad
        \varepsilon_i \sim \mathcal{N}(0, I_C).

    The loss is taken on the left group, whose own features say nothing of the class: a
    network of fewer than ``bridge_length`` layers is right once in C times. A graph has
    one class, so train and test on graphs of many seeds.

    Args:
        group_size: Nodes of each group, at least 2.
        bridge_length: Edges from one group to the other, at least 1.
        num_classes: Classes C and width of the features, at least 2.
        density: Share of joined pairs inside a group, in [0, 1]. A path through all
            nodes of the group, in random order, is there in any case. Default 1: two
            cliques.
        noise: Standard deviation :math:`\sigma`.
        seed: Seed of the instance.

    Returns:
        ``x`` in torch's default dtype, ``y``, ``edge_index`` with both directions of
        each edge, sorted, ``group`` (0 left, 1 right, 2 bridge) and ``train_mask``,
        the left group. Nodes are ordered by group; the bridge starts at node 0 and
        ends at node ``group_size``.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> data = dumbbell(10, bridge_length=4, seed=0)
        >>> data.num_nodes, data.num_edges, data.y.unique()
        (23, 188, tensor([2]))

    References:
        | On Over-Squashing in Message Passing Neural Networks
        | (Di Giovanni et al., 2023), https://arxiv.org/abs/2302.02941, whose transfer
          tasks on rings and crossed rings this one varies
    """
    _check(group_size, bridge_length, num_classes, density, noise)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([group_size, group_size, bridge_length - 1])
    group = torch.arange(3).repeat_interleave(sizes)
    left, right = (
        _dense_group(group_size, density, generator) + side * group_size
        for side in (0, 1)
    )
    middle = torch.arange(2 * group_size, len(group))
    bridge = torch.cat([torch.tensor([0]), middle, torch.tensor([group_size])])
    steps = torch.stack([bridge[:-1], bridge[1:]])
    edges = torch.cat([left, right, steps], dim=1)
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    order = torch.argsort(edges[0] * len(group) + edges[1])
    label = torch.randint(num_classes, (1,), generator=generator)
    # Drawn in float64 and rounded, so that the dtype does not change the numbers.
    x = noise * torch.randn(
        len(group), num_classes, generator=generator, dtype=torch.float64
    )
    x[group == 1, label] += 1
    return Data(
        x=x.to(torch.get_default_dtype()),
        edge_index=edges[:, order],
        y=label.repeat(len(group)),
        group=group,
        train_mask=group == 0,
    )


def _dense_group(size: int, density: float, generator: torch.Generator) -> Tensor:
    """Edges between ``size`` nodes, each pair once, of shape (2, E)."""
    # In float64, as the noise: so that the dtype does not change the graph.
    chance = torch.rand(size, size, generator=generator, dtype=torch.float64)
    joined = chance < density
    path = torch.randperm(size, generator=generator)
    joined[path[:-1], path[1:]] = True
    joined[path[1:], path[:-1]] = True
    return joined.triu(1).nonzero().T


def _check(
    group_size: int,
    bridge_length: int,
    num_classes: int,
    density: float,
    noise: float,
) -> None:
    least = {"group_size": 2, "bridge_length": 1, "num_classes": 2}
    given = {
        "group_size": group_size,
        "bridge_length": bridge_length,
        "num_classes": num_classes,
    }
    for name, value in given.items():
        if value < least[name]:
            raise ValueError(f"`{name}` must be >= {least[name]}. Got {value}.")
    if not 0 <= density <= 1:
        raise ValueError(f"`density` must lie in [0, 1]. Got {density}.")
    if not 0 <= noise < math.inf:
        raise ValueError(f"`noise` must be >= 0 and finite. Got {noise}.")
