"""A diagnosis of a 64-layer GCN costs less than the training run it replaces.

Command: ``python benchmarks/diagnose_cost.py`` (about five minutes on two cores).
Expected: under 20 s. The peer is what a person does today: train the model for 200
epochs (the GCN paper's number) and look at its accuracy. Both must agree on the
gradient of the first layer's weights, or the script fails.
"""

from __future__ import annotations

import copy
import math
import sys

import torch
import torch.nn.functional as F
from _claim import cora, interleaved, parse, publish
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import graphfathom as gf


def first_gradient(model: GCN, data: Data) -> float:
    """log10 norm of the first layer's gradient by plain autograd in float64."""
    twin, exact = copy.deepcopy(model).double().eval(), data.clone()
    exact.x = exact.x.double()
    weights = list(twin.convs[0].parameters())
    gradients = torch.autograd.grad(loss_of(twin, exact), weights)
    return math.log10(torch.cat([g.reshape(-1) for g in gradients]).norm())


def loss_of(model: torch.nn.Module, data: Data) -> torch.Tensor:
    """Cross-entropy on the training nodes."""
    output = model(data.x, data.edge_index)
    return F.cross_entropy(output[data.train_mask], data.y[data.train_mask])


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    depth, epochs, rounds = (16, 20, 1) if options.quick else (64, 200, 3)
    data, name = cora()
    classes = int(data.y.max()) + 1

    def network() -> GCN:
        torch.manual_seed(0)
        return GCN(data.num_features, 64, depth, classes)

    def train() -> None:
        gf.training.fit(network(), lambda m: loss_of(m, data), epochs=epochs)

    report = gf.diagnose(network(), data)
    found = report.observations.value("gradient.weights", "layer:1")
    plain = first_gradient(network(), data)
    if abs(found - plain) > 1e-6:
        print(f"first layer's gradient: 10^{found}, autograd says 10^{plain}")
        return 1
    ours, peer = interleaved(lambda: gf.diagnose(network(), data), train, rounds)
    publish(
        {
            "claim": "diagnose_cost",
            "ours": round(ours, 2),
            "peer": round(peer, 2),
            "ratio": round(peer / ours, 2),
            "unit": f"seconds; peer: {epochs} epochs of training",
            "size": f"GCN, {depth} layers of width 64, {name}",
            "rounds": rounds,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
