"""A training step on a batch of 512 small graphs, against PyG's own layers.

Command: ``python benchmarks/graph_batch_step.py`` (about two minutes on two cores).
The aims are a factor of 4 for 10 layers on the edges, and of 5 for 10 layers that each
read 10 shells, over one convolution per shell. The second is not reached: the linear
maps, the same on both sides, take most of our time. Beside them, for information: layer
k on shell k alone (kGNN-SSM), and on the shells 1 to k (DRew). ``without_graph`` is the
time of the linear maps and activations alone, of the edges and of 10 shells a layer.

A step is forward, loss, backward and the step of Adam, on graphs of 25 to 34 nodes:
those of GraphProp from the folder that ``GRAPHFATHOM_DATA`` names, or random ones. Ours
builds its matrices anew in every step, timed with it. The peer is ``GCNConv`` of
``torch_geometric`` on ``edge_index``; for shells, on the pairs of each shell, which it
gets in pieces cut out beforehand. Outputs and gradients must agree in float64, or the
script fails. ``ratio`` is that on the edges with ReLU, the default of PyG's models;
``shells_ratio`` that with 10 shells in each layer.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
import torch_geometric.nn
from _claim import interleaved, parse, publish
from _graphprop import graphprop
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import graphfathom as gf
from graphfathom.nn.khop import khop_adjacency, propagate_linear_shells
from graphfathom.nn.zoo import DRew
from graphfathom.transforms import KHopShells

GRAPHS, STORED, DEPTH, WIDTH = 512, 5120, 10, 30


class Stack(nn.Module):
    """Encoder, layers ``h + act(conv(h))``, decoder."""

    def __init__(self, conv: Callable[..., nn.Module], act: Any) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, WIDTH)
        self.convs = nn.ModuleList(conv(WIDTH, WIDTH) for _ in range(DEPTH))
        self.decoder = nn.Linear(WIDTH, 1)
        self.act = act

    def graphs(self, data: Data) -> Iterable[Any]:
        """What each layer is called with: the edges."""
        return [data.edge_index] * DEPTH

    def forward(self, data: Data) -> Tensor:
        """A number for each node."""
        h = self.encoder(data.x)
        for conv, graph in zip(self.convs, self.graphs(data), strict=True):
            h = h + self.act(conv(h, graph))
        return self.decoder(h)


class Shared(Stack):
    """On one adjacency for all layers."""

    def graphs(self, data: Data) -> Iterable[Any]:
        """That of the edges."""
        size, batch = data.num_nodes, data.batch
        graph = gf.nn.adjacency_for(
            self.convs, data.edge_index, num_nodes=size, batch=batch
        )
        return [graph] * DEPTH


class Shelled(Stack):
    """Layer k on the matrix of shell k."""

    def graphs(self, data: Data) -> Iterable[Any]:
        """Those of the shells."""
        index, hop, size = data.shell_index, data.shell_hop, data.num_nodes
        shells = khop_adjacency(index, hop, int(size or 0), DEPTH, dtype=data.x.dtype)
        return [shells[k] for k in range(1, DEPTH + 1)]


class PeerShelled(Stack):
    """Layer k on the pairs of shell k."""

    def graphs(self, data: Data) -> Iterable[Any]:
        """The pairs, cut out before the clock starts."""
        return data.pieces


class Bare(nn.Module):
    """A convolution without its graph."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, graph: Any) -> Tensor:
        """The linear map alone."""
        return self.lin(x)


class AllShells(nn.Module):
    """Layers ``h + relu(sum of the messages from all shells)``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 1)
        self.layers = nn.ParameterList(
            torch.randn(DEPTH, WIDTH, WIDTH) / WIDTH for _ in range(DEPTH)
        )

    def forward(self, data: Data) -> Tensor:
        """A number for each node."""
        h = self.encoder(data.x)
        shells = self.shells(data)
        for weight in self.layers:
            h = h + self.messages(shells, h, weight).relu()
        return self.head(h)

    def shells(self, data: Data) -> Any:
        """The matrices of all shells."""
        index, hop, size = data.shell_index, data.shell_hop, data.num_nodes
        return khop_adjacency(index, hop, int(size or 0), DEPTH, dtype=data.x.dtype)

    def messages(self, shells: Any, h: Tensor, weight: Tensor) -> Tensor:
        """From all shells."""
        return propagate_linear_shells(shells, [h] * DEPTH, weight)


class BareShells(AllShells):
    """The same without its graph."""

    def shells(self, data: Data) -> Any:
        """None."""

    def messages(self, shells: Any, h: Tensor, weight: Tensor) -> Tensor:
        """The linear maps alone, at the width that suits them."""
        h, weight = F.pad(h, (0, 2)), F.pad(weight, (0, 2, 0, 2))
        return torch.stack([h @ part for part in weight]).sum(0)[:, :WIDTH]


class PeerShells(nn.Module):
    """One convolution for each layer and shell, as the code of DRew has it."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.encoder, self.head = ours.encoder, ours.head
        found = [getattr(layer, "weight", layer).mT for layer in ours.layers]
        self.layers = nn.ModuleList(
            nn.ModuleList(map(convolution, weights)) for weights in found
        )

    def forward(self, data: Data) -> Tensor:
        """A number for each node."""
        h = self.encoder(data.x)
        for convs in cast("list[list[nn.Module]]", self.layers):
            pairs = zip(convs, data.pieces, strict=False)
            h = h + sum(conv(h, piece) for conv, piece in pairs).relu()
        return self.head(h)


class OurDRew(nn.Module):
    """Ours, called with a batch."""

    def __init__(self, model: DRew) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: Data) -> Tensor:
        """A number for each node."""
        shells = data.shell_index, data.shell_hop
        return self.model(data.x, data.edge_index, None, data.batch, None, *shells)


def convolution(weight: Tensor) -> nn.Module:
    """PyG's layer without bias, with a copy of a weight."""
    conv = torch_geometric.nn.GCNConv(WIDTH, WIDTH, bias=False)
    conv.lin.weight.data.copy_(weight.detach())
    return conv


def drew() -> tuple[nn.Module, nn.Module]:
    """Both sides with the same weights."""
    model = DRew(2, WIDTH, 1, DEPTH, self_loops=True)
    return OurDRew(model), PeerShells(copy.deepcopy(model))


def all_shells() -> tuple[nn.Module, nn.Module]:
    """Both sides with the same weights."""
    model = AllShells()
    return model, PeerShells(copy.deepcopy(model))


def batch() -> tuple[Data, str]:
    """The first graphs of the training set in a random order, with their shells."""
    stored, name = graphprop(STORED)
    found = [stored[i] for i in torch.randperm(len(stored))[:GRAPHS].tolist()]
    for graph in found:
        graph.x = torch.rand(graph.num_nodes, 2)
    shells = KHopShells(DEPTH)
    data: Any = Batch.from_data_list([shells(graph) for graph in found])
    data.y = torch.randn(data.num_nodes, 1)
    hops = range(1, DEPTH + 1)
    data.pieces = [data.shell_index[:, data.shell_hop == hop] for hop in hops]
    return data, f"graphs ({name})"


def step(model: nn.Module, data: Data) -> Callable[[], None]:
    """Forward, loss, backward and a step of the optimizer."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(data), data.y).backward()
        optimizer.step()

    return run


def difference(ours: nn.Module, peer: nn.Module, data: Data) -> float:
    """Of output and gradients in float64, relative to the largest entry of each."""
    data = copy.copy(data)
    data.x, data.y = data.x.double(), data.y.double()
    found = []
    for model in (ours, peer):
        exact = copy.deepcopy(model).double()
        out = exact(data)
        F.mse_loss(out, data.y).backward()
        grads = [p.grad for p in exact.parameters() if p.grad is not None]
        found.append((out.detach(), stable_norm(grads), grads))
    (a, size, one), (b, expected, other) = found
    if len(one) == len(other):  # else one side has its weights in other pieces
        pairs = [*zip(one, other, strict=True), (a, b)]
        return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)
    return max(float((a - b).abs().max() / b.abs().max()), abs(size / expected - 1))


def stable_norm(tensors: list[Tensor]) -> float:
    """Of all entries together."""
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def pairs(kinds: tuple[Any, Any], act: Any) -> tuple[nn.Module, nn.Module]:
    """Both sides with the same weights."""
    ours, peer = kinds[0](gf.nn.GCNConv, act), kinds[1](torch_geometric.nn.GCNConv, act)
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def measure(
    models: tuple[nn.Module, nn.Module], data: Data, rounds: int
) -> dict[str, Any] | None:
    """Milliseconds of a step; None if the two sides disagree."""
    found = difference(*models, data)
    if not found < 1e-10:
        print(f"{type(models[0]).__name__}: results differ by {found:.1e}")
        return None
    ours, peer = (step(model, data) for model in models)
    ours()
    peer()
    times = interleaved(ours, peer, rounds)
    return {
        "ours": round(1e3 * times[0], 1),
        "peer": round(1e3 * times[1], 1),
        "ratio": round(times[1] / times[0], 2),
    }


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    rounds = 5 if options.quick else 31
    torch.manual_seed(0)
    data, name = batch()
    built = {
        "edges, relu": pairs((Shared, Stack), torch.relu),
        "edges, tanh": pairs((Shared, Stack), torch.tanh),
        "shell k in layer k": pairs((Shelled, PeerShelled), torch.relu),
        "k shells in layer k": drew(),
        "ten shells a layer": all_shells(),
    }
    rows = {}
    for place, models in built.items():
        rows[place] = measure(models, data, rounds)
        if rows[place] is None:
            return 1
    floors = []
    for model in (Stack(Bare, torch.relu), BareShells()):
        run = step(model, data)
        run()
        floors.append(round(1e3 * interleaved(run, run, rounds)[0], 1))
    publish(
        {
            "claim": "graph_batch_step",
            **rows["edges, relu"],
            "without_graph": floors,
            "shells_ratio": rows["ten shells a layer"]["ratio"],
            "unit": "milliseconds of a training step; medians",
            "size": f"{DEPTH} layers, width {WIDTH}, {GRAPHS} {name}, "
            f"{data.num_nodes} nodes, {data.num_edges} edges, "
            f"{data.shell_index.shape[1]} pairs in {DEPTH} shells",
            "rounds": rounds,
            "by_work": rows,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
