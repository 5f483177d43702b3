"""The tables of ``backward_smoothing`` as Markdown, for its page in the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
"""Heading, and the text of a row's cell."""


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    heads = [head for head, _ in columns]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += [f"| {' | '.join(show(row) for _, show in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def scientific(value: float | None) -> str:
    """Two digits; a dash for what is not known."""
    return "–" if value is None else f"{value:.1e}"


def power(logarithm: float | None) -> str:
    """As :func:`scientific`, of a decimal logarithm beyond the range of floats too."""
    if logarithm is None:
        return "–"
    return f"1e{logarithm:+.0f}" if abs(logarithm) > 30 else scientific(10**logarithm)


def number(digits: int) -> Callable[[float | None], str]:
    """That many digits behind the point."""
    return lambda value: "–" if value is None else f"{value:.{digits}f}"


def rates(row: Row) -> str:
    """The smallest and the largest lambda."""
    low, high = row["rate"]
    if row["components"] > 1 and high == 0:
        return "P = I"
    return f"{low:.4f}" if low == high else f"{low:.2f}–{high:.2f}"


def accuracy(row: Row) -> str:
    """Mean and standard deviation over seeds."""
    spread = row["test_std"]
    return f"{row['test']:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


SECTION_9: tuple[Column, ...] = (
    ("λ", lambda r: f"{r['rate']:.3f}"),
    ("L", lambda r: str(r["layers"])),
    ("largest gradient", lambda r: scientific(r["gradient"])),
    ("specification", lambda r: scientific(r["published"])),
    ("largest / smallest", lambda r: f"{r['spread']:.2f}"),
    ("bound (6.6)", lambda r: scientific(r["bound"])),
    ("loss", lambda r: f"{r['loss']:.4f}"),
    ("constant's loss", lambda r: f"{r['constant']:.4f}"),
    ("MLP's gradient", lambda r: f"{r['mlp']:.2f}"),
)
COUNTER_EXAMPLE: tuple[Column, ...] = (
    ("L", lambda r: str(r["layers"])),
    ("MLP", lambda r: f"{r['mlp']:.4f}"),
    ("specification", lambda r: f"{r['published_mlp']:.4f}"),
    ("GNN", lambda r: scientific(r["gnn"])),
    ("specification", lambda r: scientific(r["published_gnn"])),
)
START: tuple[Column, ...] = (
    ("network", lambda r: r["title"]),
    ("seeds", lambda r: str(r["seeds"])),
    ("λ", rates),
    ("gradient, random head", lambda r: power(r["random_gradient"])),
    ("gradient, fitted head", lambda r: power(r["fitted_gradient"])),
    ("bound (6.6)", lambda r: power(r["bound"])),
    ("fitted loss / constant's", lambda r: f"{r['fitted_share']:.3f}"),
    ("deviation kept per layer", lambda r: number(3)(r["kept"])),
)
END: tuple[Column, ...] = (
    ("network", lambda r: r["title"]),
    ("loss", lambda r: number(4)(r["loss"])),
    ("constant's loss", lambda r: number(4)(r["constant"])),
    ("largest gradient", lambda r: power(r["gradient"])),
    ("largest norm of weights", lambda r: number(2)(r["norm"])),
    ("train, %", lambda r: number(1)(r["train"])),
    ("test, %", accuracy),
)
RATES: tuple[Column, ...] = (
    ("P", lambda r: r["operator"]),
    ("eigenvalues 1", lambda r: str(r["multiplicity"])),
    ("λ", lambda r: f"{r['rate']:.4f}"),
    ("λ^40", lambda r: f"{r['rate'] ** 40:.2f}"),
)
SCALES: tuple[Column, ...] = (
    ("s", lambda r: f"{r['scale']:g}"),
    ("λs", lambda r: f"{r['scale'] * sum(r['rate']) / 2:.2f}"),
    ("gradient, fitted head", lambda r: power(r["fitted_gradient"])),
    ("deviation kept per layer", lambda r: number(3)(r["kept"])),
    ("norm at the end", lambda r: number(2)(r["norm"])),
    ("loss at the end", lambda r: number(4)(r["loss"])),
    ("train, %", lambda r: number(1)(r["train"])),
    ("test, %", accuracy),
)
GRID: tuple[Column, ...] = (
    ("r", lambda r: f"{r['radius']:g}"),
    ("c", lambda r: f"{r['strength']:g}"),
    ("gradient, fitted head", lambda r: power(r["fitted_gradient"])),
    ("fitted loss / constant's", lambda r: f"{r['fitted_share']:.3f}"),
    ("deviation kept per layer", lambda r: number(3)(r["kept"])),
    ("flagged", lambda r: {True: "yes", False: "no", None: "–"}[r["flagged"]]),
    ("loss at the end", lambda r: number(4)(r["loss"])),
    ("test, %", lambda r: number(1)(r["test"])),
)
JUDGED: tuple[Column, ...] = (
    ("network", lambda r: r["title"]),
    ("flagged", lambda r: f"{r['flagged']} of {r['seeds']}"),
    ("wanted", lambda r: str(r["wanted"])),
    ("called contraction", lambda r: str(r["contraction"])),
    ("loss after refit", lambda r: number(4)(r["refit"])),
    ("constant's loss", lambda r: number(4)(r["constant"])),
    ("largest gradient after refit", lambda r: power(r["refit_gradient"])),
)
