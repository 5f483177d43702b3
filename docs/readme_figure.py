"""The figure of the README: the loss gradient in every state of four deep networks.

Command: ``python docs/readme_figure.py`` (under a minute, needs Cora); writes
``docs/_static/depth.svg`` and the numbers behind it, ``docs/_static/depth.csv``.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from matplotlib.figure import Figure

from graphfathom import plotting
from graphfathom.datasets import load
from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.trace import capture
from graphfathom.nn.zoo import build
from graphfathom.problem import Problem

FOLDER = Path(__file__).parent / "_static"
DEPTH, WIDTH = 64, 64
NETWORKS = (
    # label, model, norm, colour, line style
    ("GCN", "gcn", None, plotting.BLUE, "-"),
    ("GCN + BatchNorm", "gcn", "batch", plotting.VERMILLION, "--"),
    ("GCNII", "gcnii", None, plotting.GREEN, "-."),
    ("residual (res+)", "res+", None, plotting.PURPLE, ":"),
)


def main() -> None:
    """Measure, draw, write."""
    data, _ = load("Cora")
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    rows = []
    for label, model, norm, colour, style in NETWORKS:
        torch.manual_seed(0)
        classes = int(data.y.max()) + 1
        network = build(model, data.num_features, classes, DEPTH, WIDTH, norm)
        trace = capture(Problem(network, data))
        table = Observations(gradient_observations(trace))
        index, values = table.series("gradient.state.relative")
        rows += [(label, k, value) for k, value in zip(index, values, strict=True)]
        axes.plot(index[1:], values[1:], style, color=colour, linewidth=2, label=label)
    axes.axhspan(-3, 3, color="#999999", alpha=0.15, linewidth=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("gradient, log10, relative to the last state")
    axes.set_title(
        f"How much of the loss gradient reaches each layer ({DEPTH} layers, Cora, "
        "untrained)",
        loc="left",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    (FOLDER / "depth.svg").write_text(plotting.to_svg(figure), encoding="utf-8")
    with (FOLDER / "depth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "state", "log10 relative gradient"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
