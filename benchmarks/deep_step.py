"""A training step of a deep GCN on one shared adjacency, against PyG's own stack.

Command: ``python benchmarks/deep_step.py`` (about two minutes on two cores).
The aim is a factor of 2.5. It is not reached at every depth: the dense products of the
linear maps, which both have to do, take more than half of our time (``linear``).

A step is forward, loss and backward on Cora's graph from features of width 64; what is
the same for both, projecting the raw features and the optimizer's step, is left out.
The peer is ``torch_geometric.nn.GCN`` on ``edge_index``. Ours are the same parameters
in layers that share an adjacency, built anew in every step and timed with it. Gradients
of all parameters must agree in float64, or the script fails. ``ratio`` is that of the
worst depth. For information: ``peer_cached_csr`` is PyG with a CSR matrix that is
normalised once and cached.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _claim import cora, interleaved, parse, publish
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN
from torch_geometric.utils import to_torch_csr_tensor

import graphfathom as gf

WIDTH = 64


class SharedGCN(nn.Module):
    """The forward pass of PyG's GCN with its very parameters, on one adjacency."""

    def __init__(self, model: GCN) -> None:
        super().__init__()
        self.convs = nn.ModuleList(gf.nn.shared(conv) for conv in model.convs)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features to class scores."""
        graph = gf.nn.adjacency_for(self.convs, edge_index, num_nodes=len(x))
        for conv in self.convs[:-1]:
            x = conv(x, graph).relu_()
        return self.convs[-1](x, graph)


class Linears(nn.Module):
    """The linear maps of a GCN, without bias, activation and graph."""

    def __init__(self, model: GCN) -> None:
        super().__init__()
        self.maps = nn.ModuleList(conv.lin for conv in model.convs)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features to class scores."""
        for linear in self.maps:
            x = linear(x)
        return x


def step(model: nn.Module, data: Data, graph: Any) -> Callable[[], None]:
    """Forward, loss and backward from cleared gradients."""

    def run() -> None:
        model.zero_grad()
        output = model(data.x, graph)
        F.cross_entropy(output[data.train_mask], data.y[data.train_mask]).backward()

    return run


def worst_difference(model: GCN, data: Data) -> float:
    """Of all gradients in float64, relative to the largest entry of each."""
    exact, data = copy.deepcopy(model).double(), data.clone()
    data.x = data.x.double()
    found = []
    for module in (SharedGCN(exact), exact):
        step(module, data, data.edge_index)()
        found.append([parameter.grad.clone() for parameter in exact.parameters()])
    pairs = zip(*found, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def measure(depth: int, data: Data, rounds: int) -> dict[str, float] | None:
    """Milliseconds of a step at one depth; None if the gradients disagree."""
    torch.manual_seed(0)
    classes = int(data.y.max()) + 1
    model = GCN(WIDTH, WIDTH, depth, classes)
    cached = GCN(WIDTH, WIDTH, depth, classes, cached=True)
    cached.load_state_dict(model.state_dict())
    difference = worst_difference(model, data)
    if not difference < 1e-9:
        print(f"{depth} layers: gradients differ by {difference:.1e} of the largest")
        return None
    # Symmetric, so that the rows of this matrix are those of its transpose.
    matrix = to_torch_csr_tensor(data.edge_index, size=(data.num_nodes,) * 2)
    ours = step(SharedGCN(model), data, data.edge_index)
    peer, csr = step(model, data, data.edge_index), step(cached, data, matrix)
    linear = step(Linears(model), data, data.edge_index)
    for warm in (ours, peer, csr, linear):
        warm()
    times = interleaved(ours, peer, rounds)
    with_csr, without_graph = interleaved(csr, linear, rounds)
    return {
        "ours": round(1e3 * times[0], 1),
        "peer": round(1e3 * times[1], 1),
        "peer_cached_csr": round(1e3 * with_csr, 1),
        "linear": round(1e3 * without_graph, 1),
        "ratio": round(times[1] / times[0], 2),
    }


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    depths, rounds = ((8, 32), 7) if options.quick else ((8, 32, 128), 31)
    # PyG builds CSR tensors, of which torch warns that they are beta.
    warnings.filterwarnings("ignore", "Sparse", UserWarning)
    data, name = cora()
    data.x = torch.randn(data.num_nodes, WIDTH, generator=torch.manual_seed(0))
    rows = {depth: measure(depth, data, rounds) for depth in depths}
    if None in rows.values():
        return 1
    worst = min(rows, key=lambda depth: rows[depth]["ratio"])
    publish(
        {
            "claim": "deep_step",
            **rows[worst],
            "unit": "milliseconds of forward, loss and backward; medians",
            "size": f"GCN, width {WIDTH}, {name}; worst of {depths} layers: {worst}",
            "rounds": rounds,
            "by_depth": rows,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
