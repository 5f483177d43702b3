"""Graphs of the verdict suite: small, with planted classes that neighbours help find.

A family draws the edges and the classes; features and splits are the same for all. A
good network of two layers reaches 95 to 100 %, so that a point is seldom noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order
from torch import Generator, Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import erdos_renyi_graph, to_undirected

import graphfathom as gf

__all__ = [
    "FAMILIES",
    "UNSEEN_FAMILIES",
    "around",
    "complete",
    "dumbbells",
    "graph",
    "with_junk",
    "with_shortcuts",
]

SHARES = 0.4, 0.2
"""Training and validation nodes; the rest is tested."""
SIGNAL = 1.5
"""Norm of a class mean. The noise has standard deviation 1/2 in each column."""

Drawn = tuple[Tensor, Tensor]
"""Edges, each once or twice, and classes."""


def graph(family: str, seed: int) -> Data:
    """Draw an instance of a family."""
    generator = Generator().manual_seed(seed)
    classes = 3 + seed % 3
    edges, y = FAMILIES[family](classes, generator)
    n, width = len(y), 16 + 8 * (seed % 3)
    means = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    noise = torch.randn(n, width, generator=generator) / 2
    x = (SIGNAL * means[:classes])[y] + noise
    edge_index = to_undirected(edges, num_nodes=n)
    data = Data(x=x.to(torch.get_default_dtype()), edge_index=edge_index, y=y)
    bounds = [round(SHARES[0] * n), round(sum(SHARES) * n)]
    parts = torch.randperm(n, generator=generator).tensor_split(bounds)
    return _split(data, parts)


def dumbbells(
    bridge: int, size: int, seed: int, count: int = 24, joined: bool = False
) -> Data:
    """Many dumbbells side by side; some are for training, others for testing.

    A dumbbell has one class: its right group knows, its left group is asked.

    Args:
        bridge: Edges between the groups.
        size: Nodes of each group.
        seed: Seed of the first; the others follow.
        count: Number of dumbbells.
        joined: Whether there is an edge from each node on the left to one on the right.
    """
    first = 1000 * seed
    graphs = [
        gf.datasets.dumbbell(size, bridge, 3, seed=s)
        for s in range(first, first + count)
    ]
    whole = Batch.from_data_list(graphs)
    bounds = [round(SHARES[0] * count), round(sum(SHARES) * count)]
    left, edge_index = whole.group == 0, whole.edge_index
    parts = [
        (left & torch.isin(whole.batch, part)).nonzero().flatten()
        for part in torch.arange(count).tensor_split(bounds)
    ]
    if joined:
        right = (whole.group == 1).nonzero().flatten()
        pairs = torch.stack([left.nonzero().flatten(), right])
        edge_index = torch.cat([edge_index, pairs], dim=1)
    edge_index = to_undirected(edge_index, num_nodes=whole.num_nodes)
    return _split(Data(x=whole.x, edge_index=edge_index, y=whole.y), parts)


def complete(data: Data, share: float, seed: int) -> Data:
    """The same nodes with that share of all pairs joined, whatever their classes."""
    generator = Generator().manual_seed(seed)
    pairs = torch.combinations(torch.arange(data.num_nodes))
    chosen = pairs[torch.rand(len(pairs), generator=generator) < share]
    dense = data.clone()
    dense.edge_index = to_undirected(chosen.T, num_nodes=data.num_nodes)
    return dense


def around(data: Data, node: int, size: int) -> Data:
    """The subgraph of the nodes nearest to one of them."""
    ends = data.edge_index.numpy()
    n = data.num_nodes
    adjacency = coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(n, n))
    order = breadth_first_order(adjacency.tocsr(), node, directed=False)[0]
    nearest = torch.from_numpy(order[:size].copy()).long().sort().values
    return data.subgraph(nearest)


def with_shortcuts(data: Data, number: int, seed: int) -> Data:
    """The same graph with that many edges more, between any nodes."""
    generator = Generator().manual_seed(seed)
    anywhere = torch.randint(data.num_nodes, (2, number), generator=generator)
    anywhere = anywhere[:, anywhere[0] != anywhere[1]]
    grown = data.clone()
    grown.edge_index = to_undirected(
        torch.cat([data.edge_index, anywhere], dim=1), num_nodes=data.num_nodes
    )
    return grown


def with_junk(data: Data, number: int, loudness: float, seed: int) -> Data:
    """The same graph with neighbours that know nothing, and say who they are.

    Args:
        data: The graph.
        number: Junk neighbours of each node, among half as many as there are nodes.
        loudness: Size of their features, relative to the noise of the others.
        seed: Seed of who is joined to whom and of their features.
    """
    generator = Generator().manual_seed(seed)
    n, width = data.x.shape
    extra = n // 2
    junk = loudness * torch.randn(extra, width, generator=generator) / 2
    flag = torch.cat([torch.zeros(n, 1), torch.ones(extra, 1)])
    x = torch.cat([torch.cat([data.x, junk.to(data.x)]), flag.to(data.x)], dim=1)
    source = n + torch.randint(extra, (number * n,), generator=generator)
    target = torch.arange(n).repeat(number)
    noisy = torch.stack([source, target])
    y = torch.cat([data.y, torch.zeros(extra, dtype=torch.long)])
    grown = Data(x=x, edge_index=torch.cat([data.edge_index, noisy], dim=1), y=y)
    for part in ("train", "val", "test"):
        mask = data[f"{part}_mask"]
        grown[f"{part}_mask"] = torch.cat([mask, mask.new_zeros(extra)])
    return grown


def _split(data: Data, parts: list[Tensor] | tuple[Tensor, ...]) -> Data:
    for name, part in zip(("train", "val", "test"), parts, strict=True):
        mask = torch.zeros(data.num_nodes, dtype=torch.bool)
        data[f"{name}_mask"] = mask.index_fill(0, part, True)
    return data


def _block_model(classes: int, generator: Generator) -> Drawn:
    seed = int(torch.randint(2**31, (1,), generator=generator))
    data = gf.datasets.csbm(360, classes, avg_degree=6, homophily=0.85, seed=seed)
    return data.edge_index, data.y


def _small_world(classes: int, generator: Generator) -> Drawn:
    """A ring of six neighbours each, a tenth of the edges rewired; classes in arcs."""
    n, arc = 360, 30
    start = torch.arange(n).repeat(3)
    step = torch.arange(1, 4).repeat_interleave(n)
    end = (start + step) % n
    anywhere = torch.randint(n, end.shape, generator=generator)
    moved = torch.rand(end.shape, generator=generator) < 0.1
    end = torch.where(moved & (anywhere != start), anywhere, end)
    return torch.stack([start, end]), (torch.arange(n) // arc) % classes


def _grid(classes: int, generator: Generator) -> Drawn:
    """A square grid with patches of six by six."""
    side, patch = 18, 6
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    number = (row * side + column).long()
    right = torch.stack([number[:, :-1].flatten(), number[:, 1:].flatten()])
    down = torch.stack([number[:-1].flatten(), number[1:].flatten()])
    patches = (row // patch) * (side // patch) + column // patch
    order = torch.randperm((side // patch) ** 2, generator=generator)
    return torch.cat([right, down], dim=1), (order[patches] % classes).flatten()


def _hubs(classes: int, generator: Generator) -> Drawn:
    """Preferential attachment: three of four new edges go to a hub of one's class."""
    n, new = 360, 3
    y = torch.randperm(n, generator=generator) % classes
    degree = torch.ones(n)
    edges = []
    for node in range(classes * new, n):
        weight = degree[:node] * torch.where(y[:node] == y[node], 3.0 * classes, 1.0)
        chosen = torch.multinomial(weight, new, generator=generator)
        edges.append(torch.stack([torch.full((new,), node), chosen]))
        degree[chosen] += 1
        degree[node] += new
    return torch.cat(edges, dim=1), y


def _geometric(classes: int, generator: Generator) -> Drawn:
    """Points of the unit square, joined when near; classes by the nearest centre."""
    n, degree = 360, 7
    points = torch.rand(n, 2, generator=generator)
    distance = torch.cdist(points, points)
    near = (distance < math.sqrt(degree / (math.pi * n))).triu(1)
    # Joined in order of the first coordinate as well, so that nobody is alone.
    order = points[:, 0].argsort()
    path = torch.stack([order[:-1], order[1:]])
    centres = torch.rand(2 * classes, 2, generator=generator)
    y = torch.cdist(points, centres).argmin(1) % classes
    return torch.cat([near.nonzero().T, path], dim=1), y


def _cliques(classes: int, generator: Generator) -> Drawn:
    """A ring of cliques of six nodes, and a few edges anywhere."""
    size, count = 6, 60
    inside = torch.combinations(torch.arange(size)).T
    shift = size * torch.arange(count).repeat_interleave(inside.size(1))
    edges = inside.repeat(1, count) + shift
    ends = size * torch.arange(count)
    ring = torch.stack([ends, (ends + size + 1) % (size * count)])
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        anywhere = erdos_renyi_graph(size * count, 0.002)
    order = torch.randperm(count, generator=generator) % classes
    return torch.cat([edges, ring, anywhere], dim=1), order.repeat_interleave(size)


FAMILIES: dict[str, Callable[[int, Generator], Drawn]] = {
    "block-model": _block_model,
    "small-world": _small_world,
    "grid": _grid,
    "hubs": _hubs,
    "geometric": _geometric,
    "cliques": _cliques,
}
UNSEEN_FAMILIES = ("hubs", "geometric", "cliques")
"""Never looked at while thresholds are chosen."""
