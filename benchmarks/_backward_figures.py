"""The figures of ``backward_smoothing``, as SVG with their data as CSV beside them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import _backward_plan as plan
from _backward_tables import Row, finished
from _claim import RESULTS
from _runs import Config, Queue, write

from graphfathom import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORKS = (
    # cell, label, colour, line style
    (plan.TRAINED[2], "GNN, 5 layers", plotting.SKY, "-"),
    (plan.TRAINED[3], "MLP, 5 layers", plotting.ORANGE, "-"),
    (plan.TRAINED[0], "GNN, 40 layers", plotting.BLUE, "--"),
    (plan.TRAINED[1], "MLP, 40 layers", plotting.VERMILLION, "--"),
)
FITTED = (
    (plan.TRAINED[1], "MLP", plotting.ORANGE, "-"),
    (plan.TRAINED[4], "GNN, CSBM, slow", plotting.SKY, "--"),
    (plan.CORA[0], "GNN, Cora", plotting.PURPLE, ":"),
    (plan.TRAINED[6], "GNN, CSBM, fast, stabilized", plotting.GREEN, "-."),
    (plan.TRAINED[0], "GNN, CSBM, fast", plotting.BLUE, "-"),
)
LAYERS = (1, 10, 20, 30, 40)
"""Those whose gradients are drawn."""
DARK = 1.4
"""Sum of red, green and blue below which text is white."""


def draw(queue: Queue, scales: list[Row], grid: list[Row]) -> None:
    """Every figure."""
    from matplotlib import rc_context

    with rc_context(plotting.LOOK | {"axes.titlepad": 8, "legend.fontsize": 9}):
        training(queue)
        fitted(queue)
        norms(scales)
        state_space(grid)


def save(figure: Figure, name: str, head: Sequence[str], rows: Iterable[Any]) -> None:
    """The picture and its numbers."""
    path = RESULTS / f"backward_smoothing_{name}.svg"
    write(path, plotting.to_svg(figure))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in row])
    write(path.with_suffix(".csv"), buffer.getvalue())


def panels(
    columns: int, width: float, height: float, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Axes in rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def course(queue: Queue, config: Config) -> list[Row]:
    """What a finished run wrote for each epoch."""
    if queue.result(config) is None:
        return []
    text = (queue.folder(config) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def training(queue: Queue) -> None:
    """The paper's first figure: losses, and the gradients of two deep networks."""
    figure, (left, *others) = panels(3, 10.5, 3.4)
    rows: list[Any] = []
    for cell, label, colour, style in NETWORKS:
        courses = [
            [line["loss"] for line in course(queue, plan.trained(cell, seed))]
            for seed in plan.trained_seeds(cell)
        ]
        courses = [losses for losses in courses if losses]
        if not courses:
            continue
        low, mid, high = (
            [f(at) for at in zip(*courses, strict=True)]
            for f in (min, statistics.median, max)
        )
        epochs = range(len(mid))
        left.plot(epochs, mid, style, color=colour, label=label, linewidth=1.8)
        left.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        rows += [
            ("loss", label, epoch, "", *values)
            for epoch, values in enumerate(zip(mid, low, high, strict=True))
        ]
    left.axhline(math.log(2), color=plotting.TEXT, linewidth=0.8, linestyle=":")
    left.set(title="Loss on the training nodes", xlabel="epoch", ylim=(0, None))
    left.legend(loc="center right")
    for ax, (cell, label, *_) in zip(others, NETWORKS[2:], strict=True):
        rows += _gradients(ax, course(queue, plan.trained(cell, 0)), label)
    head = (
        "panel",
        "network",
        "epoch",
        "layer",
        "median or value",
        "lowest",
        "highest",
    )
    save(figure, "training", head, rows)


def _gradients(ax: Axes, lines: list[Row], label: str) -> list[Any]:
    """Norm of the gradient of some layers of one run, epoch by epoch."""
    from matplotlib import colormaps

    rows: list[Any] = []
    colours = colormaps["viridis"]
    for layer in (*LAYERS, LAYERS[-1] + 1):
        values = [line["gradients"][layer - 1] for line in lines]
        last = layer > LAYERS[-1]
        ax.semilogy(
            range(len(values)),
            values,
            color=plotting.BLACK if last else colours(0.9 * layer / LAYERS[-1]),
            linestyle=":" if last else "-",
            linewidth=1.4,
            label="last layer" if last else f"layer {layer}",
        )
        rows += [
            ("gradient", label, epoch, layer, value)
            for epoch, value in enumerate(values)
        ]
    ax.set(title=f"Gradients, {label}", xlabel="epoch", ylim=(1e-10, 1e3))
    ax.legend(ncols=2, loc="lower right" if label.startswith("MLP") else "upper right")
    return rows


def fitted(queue: Queue) -> None:
    """Gradients of 40 layers behind a fitted head."""
    figure, (ax,) = panels(1, 7.2, 3.4)
    rows: list[Any] = []
    for cell, label, colour, style in FITTED:
        found = finished(
            queue, [plan.trained(cell, seed) for seed in plan.trained_seeds(cell)]
        )
        if not found:
            continue
        curves = [r["start"]["fitted"]["gradients"] for r in found]
        mid, low, high = (
            [f(at) for at in zip(*curves, strict=True)]
            for f in (statistics.median, min, max)
        )
        layers = range(1, len(mid) + 1)
        ax.plot(layers, mid, style, color=colour, label=label, linewidth=2)
        ax.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
        rows += [
            (label, *values) for values in zip(layers, mid, low, high, strict=True)
        ]
    ax.set(
        title="Gradient of the weights once the last layer is fitted (40 layers)",
        xlabel="layer",
        ylabel="log10 of the norm",
    )
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, "fitted", ("network", "layer", "median", "lowest", "highest"), rows)


def norms(scales: list[Row]) -> None:
    """The deep GNN with larger and larger weights."""
    figure, axes = panels(3, 10.5, 3.2)
    x = [row["scale"] * sum(row["rate"]) / 2 for row in scales]
    look = {"color": plotting.BLUE, "marker": "o", "linewidth": 1.8, "markersize": 5}
    other = look | {"color": plotting.VERMILLION, "marker": "s", "linestyle": "--"}
    axes[0].plot(x, [row["fitted_gradient"] for row in scales], **look)
    axes[0].set(title="Gradient, fitted head", ylabel="log10 of the norm")
    axes[1].plot(x, [row["norm_before"] for row in scales], label="before", **look)
    axes[1].plot(x, [row["norm"] for row in scales], label="trained", **other)
    axes[1].set(title="Largest norm of weights", ylim=(0, None))
    axes[1].legend()
    axes[2].plot(x, [row["train"] for row in scales], label="training nodes", **look)
    axes[2].plot(x, [row["test"] for row in scales], label="test nodes", **other)
    axes[2].set(title="Accuracy once trained, %", ylim=(40, 102))
    axes[2].legend()
    for ax in axes:
        ax.axvline(1, color=plotting.TEXT, linewidth=0.8, linestyle=":")
        ax.set_xlabel("λs before training")
    names = ("scale", "fitted_gradient", "norm_before", "norm", "loss", "train", "test")
    rows = [[at, *(row[n] for n in names)] for at, row in zip(x, scales, strict=True)]
    save(figure, "norms", ("rate times scale", *names), rows)


def state_space(grid: list[Row]) -> None:
    """GNN-SSM as a function of r and c."""
    figure, axes = panels(2, 7.6, 6.4, rows=2)
    shown = (
        ("fitted_gradient", "log10 gradient, fitted head", "{:z.0f}", "viridis"),
        ("kept", "Deviation kept per layer", "{:.2f}", "cividis"),
        ("loss", "Loss, trained", "{:.2f}", "viridis_r"),
        ("test", "Test accuracy, trained, %", "{:.0f}", "viridis"),
    )
    cells = {(row["radius"], row["strength"]): row for row in grid}
    for ax, (name, text, form, colours) in zip(axes, shown, strict=True):
        values = [
            [
                cells.get((radius, strength), {}).get(name) or math.nan
                for strength in plan.STRENGTHS
            ]
            for radius in plan.RADII
        ]
        image = ax.imshow(values, cmap=colours, origin="lower", aspect="auto")
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                dark = sum(image.to_rgba(value)[:3]) < DARK
                _number(ax, i, j, value, form, dark)
        ax.set_xticks(range(len(plan.STRENGTHS)), [f"{c:g}" for c in plan.STRENGTHS])
        ax.set_yticks(range(len(plan.RADII)), [f"{r:g}" for r in plan.RADII])
        ax.set(title=text, xlabel="strength c", ylabel="radius r")
        ax.grid(visible=False)
    names = ("radius", "strength", *(name for name, *_ in shown), "train")
    rows = [[row[name] for name in names] for row in grid]
    save(figure, "state_space", names, rows)


def _number(ax: Axes, i: int, j: int, value: float, form: str, dark: bool) -> None:
    """The value in its cell, white where the cell is dark."""
    colour = "white" if dark else "black"
    shown = "–" if math.isnan(value) else form.format(value).replace("-", "−")
    ax.text(j, i, shown, ha="center", va="center", color=colour, fontsize=9.5)
