"""A diagnosis of a 64-layer GCN costs less than the training run it replaces.

Command: ``python benchmarks/diagnose_cost.py`` (about five minutes on two cores).
Expected: under 20 s. The peer is what a person does today: train the model for 200
epochs (the GCN paper's number) and look at its accuracy. Both must agree on the
gradient of the first layer's weights, or the script fails.
"""

from __future__ import annotations

import math
import sys

import torch
import torch.nn.functional as F
from _claim import cora, interleaved, parse, publish
from torch_geometric.nn import GCN

import graphfathom as gf


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    depth, epochs, rounds = (16, 20, 1) if options.quick else (64, 200, 3)
    data, name = cora()
    torch.manual_seed(0)
    classes = int(data.y.max()) + 1
    model = GCN(data.num_features, 64, depth, classes)

    def loss(network: torch.nn.Module) -> torch.Tensor:
        output = network(data.x, data.edge_index)
        return F.cross_entropy(output[data.train_mask], data.y[data.train_mask])

    def train() -> None:
        torch.manual_seed(0)
        twin = GCN(data.num_features, 64, depth, classes)
        gf.training.fit(twin, loss, epochs=epochs)

    report = gf.diagnose(model, data)
    model.double()
    data.x = data.x.double()
    weights = model.convs[0].parameters()
    gradients = torch.autograd.grad(loss(model), list(weights))
    plain = math.log10(torch.cat([g.reshape(-1) for g in gradients]).norm())
    found = report.observations.value("gradient.weights", "layer:1")
    if abs(found - plain) > 1e-6:
        print(f"first layer's gradient: 10^{found}, autograd says 10^{plain}")
        return 1
    model.float()
    data.x = data.x.float()
    ours, peer = interleaved(lambda: gf.diagnose(model, data), train, rounds)
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
