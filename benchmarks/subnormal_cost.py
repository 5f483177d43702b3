"""Subnormal features slow CPU kernels down: the reason of the finding "underflow".

Command: ``python benchmarks/subnormal_cost.py`` (under a minute). Expected: tens of
times. Compares one GCN layer on features of size 1 ("ours") with the same layer on
features of size 1e-40 ("peer"); the outputs must agree up to that factor.
"""

from __future__ import annotations

import sys

import torch
from _claim import cora, interleaved, parse, publish
from torch_geometric.nn import GCNConv

SCALE = 1e-40


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    data, name = cora()
    torch.manual_seed(0)
    conv = GCNConv(64, 64, bias=False, cached=True)
    x = torch.rand(data.num_nodes, 64)
    tiny = x * SCALE

    def layer(features: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return conv(features, data.edge_index)

    error = (layer(tiny) / SCALE - layer(x)).abs().max() / layer(x).abs().max()
    if error > 1e-3:  # a subnormal of this size has about 17 bits left
        print(f"outputs differ by {error:.1e} of their size")
        return 1
    rounds = 5 if options.quick else 50
    ours, peer = interleaved(lambda: layer(x), lambda: layer(tiny), rounds)
    publish(
        {
            "claim": "subnormal_cost",
            "ours": round(1e3 * ours, 3),
            "peer": round(1e3 * peer, 3),
            "ratio": round(peer / ours, 1),
            "unit": "milliseconds of one GCN layer; peer: on subnormal features",
            "size": f"{name}, width 64, float32",
            "rounds": rounds,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
