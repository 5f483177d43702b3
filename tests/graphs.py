"""Small graphs: at most twelve nodes, three features and two classes, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch_geometric.data import Data, HeteroData


def make_graph(num_nodes: int, edges: list[tuple[int, int]], seed: int = 0) -> Data:
    """A graph with the given directed edges, 3 random features and 2 classes."""
    generator = torch.Generator().manual_seed(seed)
    edge_index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).t().contiguous()
    x = torch.randn(num_nodes, 3, generator=generator, dtype=torch.float64)
    return Data(x=x, edge_index=edge_index, y=torch.arange(num_nodes) % 2)


def undirected(num_nodes: int, edges: list[tuple[int, int]], seed: int = 0) -> Data:
    """A graph with each edge in both directions."""
    return make_graph(num_nodes, [*edges, *((b, a) for a, b in edges)], seed)


def path_graph(num_nodes: int = 6) -> Data:
    """0 - 1 - 2 - ..."""
    return undirected(num_nodes, [(i, i + 1) for i in range(num_nodes - 1)])


def ring_graph(num_nodes: int = 6) -> Data:
    """A path whose ends are joined."""
    return undirected(num_nodes, [(i, (i + 1) % num_nodes) for i in range(num_nodes)])


def random_graph(num_nodes: int = 8, seed: int = 0) -> Data:
    """A connected random graph: a path and about as many chords."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [(i, j) for i in range(num_nodes) for j in range(i + 2, num_nodes)]
    chosen = torch.randperm(len(pairs), generator=generator)[:num_nodes].tolist()
    ends = [(i, i + 1) for i in range(num_nodes - 1)]
    return undirected(num_nodes, [*ends, *(pairs[i] for i in chosen)], seed)


def directed_graph() -> Data:
    """Edges that mostly point one way, with one cycle."""
    return make_graph(5, [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (1, 4)])


def two_components() -> Data:
    """A triangle beside a path."""
    return undirected(6, [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5)])


def isolated_node() -> Data:
    """A path and a node without edges."""
    return undirected(5, [(0, 1), (1, 2), (2, 3)])


def one_node() -> Data:
    """A single node."""
    return make_graph(1, [])


def no_edges() -> Data:
    """Nodes and nothing between them."""
    return make_graph(4, [])


def twelve_nodes() -> Data:
    """The largest graph of the catalogue."""
    return random_graph(12, seed=1)


GRAPHS: dict[str, Callable[[], Data]] = {
    "path": path_graph,
    "ring": ring_graph,
    "random": twelve_nodes,
    "directed": directed_graph,
    "two components": two_components,
    "isolated node": isolated_node,
    "one node": one_node,
    "no edges": no_edges,
}


def hetero_graph() -> HeteroData:
    """Papers that cite papers, authors who write papers, papers written by authors."""
    generator = torch.Generator().manual_seed(0)
    data = HeteroData()
    data["paper"].x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    data["author"].x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    data["paper"].y = torch.tensor([0, 1, 0, 1])
    data["paper", "cites", "paper"].edge_index = torch.tensor(
        [[0, 1, 2, 3, 3], [1, 2, 3, 0, 1]]
    )
    data["author", "writes", "paper"].edge_index = torch.tensor(
        [[0, 0, 1, 2, 2], [0, 1, 2, 3, 0]]
    )
    data["paper", "written", "author"].edge_index = torch.tensor(
        [[0, 1, 2, 3, 0], [0, 0, 1, 2, 2]]
    )
    return data
