"""The verdicts of the README, each beside the accuracy after training.

Command: ``python benchmarks/readme_verdicts.py`` (about ten minutes on two cores).
Expected: every verdict as stated in ``CASES``. A case counts as sick if its trained
twin stays at least 10 points of test accuracy below the best of the table. The peer is
the usual rule of thumb: one backward pass, first layer's gradient norm below 1e-6 of
the last layer's ("vanishing") or above 1e6 ("exploding").
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from _claim import RESULTS, cora, parse, publish
from torch import nn
from torch_geometric.data import Data

import graphfathom as gf
from graphfathom.nn.zoo import build

WIDTH, EPOCHS = 64, 200


@dataclass(frozen=True)
class Case:
    """One network and the verdict it should get."""

    name: str
    model: str
    num_layers: int
    trained: bool
    expected: str
    norm: str | None = None


CASES = (
    Case("GCN", "gcn", 2, False, "healthy"),
    Case("GCN", "gcn", 2, True, "healthy"),
    Case("GCN", "gcn", 8, False, "healthy"),
    Case("GCN", "gcn", 8, True, "healthy"),
    Case("GCN", "gcn", 64, False, "vanishing-gradients"),
    Case("GCN", "gcn", 64, True, "vanishing-gradients"),
    Case("GCN + BatchNorm", "gcn", 64, False, "exploding-gradients", "batch"),
    Case("GCN + BatchNorm", "gcn", 64, True, "vanishing-gradients", "batch"),
    Case("GCNII", "gcnii", 64, False, "healthy"),
    Case("GCNII", "gcnii", 64, True, "healthy"),
    Case("`res+`", "res+", 64, False, "healthy"),
    Case("`res+`", "res+", 64, True, "healthy"),
    Case("GCN, float32", "gcn", 320, False, "exactly-zero"),
    Case("MLP, no graph", "mlp", 2, False, "healthy"),
    Case("MLP, no graph", "mlp", 64, False, "vanishing-gradients"),
)


def make(case: Case, data: Data) -> nn.Module:
    """The untrained network of a case, always from the same seed."""
    torch.manual_seed(0)
    classes = int(data.y.max()) + 1
    # An explosion is a matter of the norm: dropout would only blur it.
    return build(
        case.model, data.num_features, classes, case.num_layers, WIDTH, case.norm, 0.5
    )


def call(model: nn.Module, data: Data, case: Case) -> torch.Tensor:
    """MLPs do not take edges."""
    is_dense = case.model == "mlp"
    return model(data.x) if is_dense else model(data.x, data.edge_index)


def loss_of(case: Case, data: Data) -> Callable[[nn.Module], torch.Tensor]:
    """Cross-entropy on the training nodes."""

    def loss(model: nn.Module) -> torch.Tensor:
        output = call(model, data, case)
        return F.cross_entropy(output[data.train_mask], data.y[data.train_mask])

    return loss


def rule_of_thumb(model: nn.Module, case: Case, data: Data) -> str:
    """What one backward pass says."""
    weights = [p for p in model.parameters() if p.dim() == 2]
    loss = loss_of(case, data)(model.eval())
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    norms = [float(g.norm()) for g in gradients if g is not None]
    if norms[0] < 1e-6 * norms[-1]:
        return "vanishing-gradients"
    return "exploding-gradients" if norms[0] > 1e6 * norms[-1] else "healthy"


def examine(case: Case, data: Data, epochs: int) -> dict[str, object]:
    """Verdict of one case, with the accuracy that training reaches."""
    model = make(case, data)
    twin = model if case.trained else make(case, data)
    # Networks of 320 layers take too long to train; that they do not is no claim here.
    accuracy = None
    if case.num_layers <= 64:
        gf.training.fit(twin, loss_of(case, data), epochs=epochs)
        with torch.no_grad():
            right = call(twin.eval(), data, case).argmax(-1) == data.y
        accuracy = round(100 * float(right[data.test_mask].double().mean()), 1)
    layers = "lins.*" if case.model == "mlp" else None
    report = gf.diagnose(model, data, layers=layers, controls="none")
    return {
        "model": case.name,
        "layers": case.num_layers,
        "state": "trained" if case.trained else "untrained",
        "test accuracy after training": accuracy,
        "verdict": report.verdict.name,
        "sentence": report.verdict.title,
        "expected": case.expected,
        "rule of thumb": rule_of_thumb(model, case, data),
    }


def table(rows: list[dict[str, object]]) -> str:
    """The table of the README."""
    lines = [
        "| network | layers | state | test accuracy once trained | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        accuracy = row["test accuracy after training"]
        shown = "not trained" if accuracy is None else f"{accuracy:.1f} %"
        lines.append(
            f"| {row['model']} | {row['layers']} | {row['state']} | {shown} | "
            f"{row['sentence']} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Examine all cases, print the table, write it beside the JSON."""
    options = parse(__doc__ or "")
    data, name = cora()
    small = [case for case in CASES if case.num_layers <= 8 and not case.trained]
    cases = small if options.quick else CASES
    rows = []
    for case in cases:
        rows.append(examine(case, data, 10 if options.quick else EPOCHS))
        print(rows[-1], flush=True)
    text = table(rows)
    print(text)
    if not options.quick:
        path = RESULTS / "readme_verdicts.md"
        path.write_text(text + "\n", encoding="utf-8")
    right = sum(row["verdict"] == row["expected"] for row in rows) / len(rows)
    thumb = sum(row["rule of thumb"] == row["expected"] for row in rows) / len(rows)
    publish(
        {
            "claim": "readme_verdicts",
            "ours": round(right, 3),
            "peer": round(thumb, 3),
            "ratio": round(right - thumb, 3),
            "unit": "share of expected verdicts; peer: first over last gradient norm",
            "size": f"{len(rows)} networks on {name}",
            "rounds": 1,
            "cases": rows,
        },
        options,
    )
    return 0 if right == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
