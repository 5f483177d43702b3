"""Labelled graphs, and densely what their propagations do and keep."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphfathom.diagnostics.structure import GraphStructure


def labelled(data: Data) -> Data:
    """The graph with random classes."""
    generator = torch.Generator().manual_seed(0)
    data.y = torch.randint(2, (data.num_nodes,), generator=generator)
    return data


def structure_of(data: Data) -> GraphStructure:
    return GraphStructure.from_edge_index(data.edge_index, data.num_nodes)


def projection(data: Data, kind: str) -> Tensor:
    """Onto what GCN's propagation, or a stochastic one, leaves alone."""
    structure, size = structure_of(data), data.num_nodes
    base = torch.ones(size) if kind == "constant" else structure.root_degree
    columns = []
    for c in range(structure.num_components):
        column = torch.where(structure.component == c, base.double(), 0.0)
        columns.append(column / column.norm())
    basis = torch.stack(columns, 1)
    return basis @ basis.mT


def dense_propagation(data: Data) -> Tensor:
    """GCN's, of a graph without loops and weights."""
    matrix = torch.eye(data.num_nodes)
    matrix[data.edge_index[1], data.edge_index[0]] = 1.0
    scale = matrix.sum(1).rsqrt()
    return scale.unsqueeze(1) * matrix * scale
