"""The figures of the page: inline SVG that follows the colours of the page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from graphfathom.diagnostics.observations import TRAINING
from graphfathom.plotting import (
    PANELS,
    Curve,
    beside_theory,
    curve,
    figures,
    title_of,
    to_svg,
)
from graphfathom.terminal import farthest, format_hops, format_number, format_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graphfathom.diagnostics.report import Report

__all__ = ["Illustration", "draw", "figure_for", "quiet"]

TITLE_HEIGHT = 17
"""Points at the top of a figure that its title takes; the page has its own."""

# What the colours of the figures are called in style.css.
VARIABLES = {
    "#000000": "--ink",
    "#444444": "--muted",
    "#dddddd": "--rule",
    "#0072b2": "--blue",
    "#56b4e9": "--sky",
    "#e69f00": "--orange",
    "#009e73": "--green",
    "#d55e00": "--vermillion",
    "#cc79a7": "--purple",
}

CAPTIONS = {
    "gradients": "How the gradient of the loss grows or shrinks on its way back from"
    " the output on the right to the input on the left. Where every layer can learn,"
    " the lines are level within a factor of ten or so; a straight slope means that"
    " each layer takes away, or adds, the same share.",
    "errors": "The share of the gradient in a state that is left when the part that is"
    " the same on all nodes of a component, or proportional to √degree, is taken away."
    " Low in the middle: errors have smoothed on their way back from the right, as"
    " features do on their way from the left, and the layers there cannot learn what"
    " tells nodes apart.",
    "stationarity": "By how much the loss changes at most when the weights of a layer"
    " change by as much as they are, both relative. Layers that learn have about 0.1 to"
    " 1. Where the line is low once the last layer is refitted, training that layer"
    " ends the learning of all others, whatever the loss.",
    "gain": "How much a small change of a state changes the output, on average over"
    " random directions; the band is the standard error. Where all layers are heard"
    " equally, the line is level.",
    "signal": "The size of the features, and how much they differ between neighbours."
    " If all lines fall together, the signal dies out; if only the Dirichlet energies"
    " fall, neighbours become alike, which is over-smoothing.",
    "smoothing": "The share of a state that is left when the part that is the same on"
    " all nodes of a component, or proportional to √degree, is taken away, and the"
    " Dirichlet energies per squared norm. Low on the right: the nodes can hardly be"
    " told apart.",
    "rank": "How many independent directions the features use. Close to 1, every node"
    " carries a multiple of one and the same vector.",
    "jacobian": "Every layer as a map of its own. Above 1 it amplifies changes, below 1"
    " it damps them, and depth multiplies whatever is off. The dotted line is the edge"
    " of chaos, where changes neither die nor explode.",
    "numerics": "What the precision of the model makes of the numbers. ReLU by itself"
    " sets about half of the entries to zero; a share close to 100 % means that nothing"
    " arrives. Subnormal numbers have lost digits; some CPUs are slower on them.",
    "units": "Channels that are zero on every node, and the single outputs and inputs"
    " of a layer that are cut off for these data. ReLU by itself cuts off about half of"
    " the outputs; a dead channel is width that was paid for and lost.",
    "sensitivity": "How much a node of the last state changes with one of the first,"
    " some hops away. The topology term is what the graph leaves to such a pair of all"
    " walks, the model term what the layers make of it: where the first falls, edges"
    " are missing, where the second is low, the layers damp. The band or bar is the"
    " standard error.",
    "density": "How the singular values of a layer spread: which directions it keeps"
    " and which it loses. Left of the dotted line, the edge of chaos, they shrink."
    " Dashed, where it is known: Gaussian weights of the same variance without an"
    " activation (Lemma 3.1 with the law of Marchenko and Pastur). ReLU moves them to"
    " the left; those it sets to zero are left out. A narrow peak on the left stands"
    " for all from there down, which few products cannot tell apart. The band is the"
    " standard error.",
    "theory": "What every layer does to changes, beside what its weights and its graph"
    " let one expect. A gain far from its prediction has weights that are not random; a"
    " largest singular value above what is allowed does not exist.",
    "training": "What the monitor saw while the network was trained: the loss, and the"
    " norm of the gradient of the weights of the first, the middle and the last layer."
    " Where a network learns, the loss falls and the gradients of all layers stay"
    " within a few factors of ten of each other.",
    "bounds": "The features and their differences between neighbours, beside the most"
    " that they can be after layers of these norms. A bound that falls forces the"
    " features to vanish; one that grows forces nothing.",
}
"""What one should see; one entry per panel."""

SUBJECTS = (
    ("squash", "sensitivity"),
    ("smoothing-to-zero", "signal"),
    ("smooth", "smoothing"),
    ("stationary", "stationarity"),
    ("learning-rate", "training"),
    ("stuck", "training"),
    ("training", "training"),
    ("gradient", "gradients"),
    ("dead", "units"),
    ("zero", "numerics"),
    ("underflow", "numerics"),
    ("subnormal", "numerics"),
    ("finite", "numerics"),
    ("healthy", "gradients"),
)
"""A word in the name of a finding and the figure that shows what it is about."""


@dataclass(frozen=True)
class Illustration:
    """One figure of the page."""

    name: str
    title: str
    svg: Markup
    caption: str
    reading: str
    """What is seen in this report, in a sentence."""


def draw(report: Report) -> list[Illustration]:
    """Every figure that has something to show."""
    silent = {name for name, _ in _silent(report)}
    drawn = []
    for name, figure in figures(report).items():
        if name not in silent:
            title, reading = title_of(name), _reading(report, name)
            svg = _inline(figure, name, title, reading)
            drawn.append(Illustration(name, title, svg, CAPTIONS[name], reading))
    return drawn


def figure_for(finding: str, drawn: Sequence[Illustration]) -> Illustration | None:
    """The figure that a finding is about, if it was drawn."""
    names = [figure for word, figure in SUBJECTS if word in finding]
    return next((each for each in drawn if each.name in names[:1]), None)


def quiet(report: Report) -> list[str]:
    """The legends of figures that are left out because everything in them is zero."""
    return [label for _, labels in _silent(report) for label in labels]


def _silent(report: Report) -> list[tuple[str, list[str]]]:
    found = []
    for name, panel in PANELS.items():
        pairs = [(curve(report, each), label) for each, label in panel.quantities]
        measured = [(data, label) for data, label in pairs if data]
        if panel.scale == "share" and not any(any(d.value) for d, _ in measured):
            found.append((name, [label for _, label in measured]))
    return found


def _inline(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as an element of the page: its colours, its fonts, its own ids."""
    figure.axes[0].set_title("", loc="left")
    width, height = 72 * figure.get_size_inches()
    text = to_svg(figure)
    # After the style sheet of the figure, which would hold for the whole page.
    body = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]
    body = re.sub(r">\s+<", "><", body)
    # Tags only: the text between them is what somebody wants to say.
    body = re.sub(r"<[^>]+>", lambda tag: _restyled(tag[0], name), body)
    box = f"0 {TITLE_HEIGHT} {width:.0f} {height - TITLE_HEIGHT:.0f}"
    return Markup(  # Drawn by matplotlib, which escapes text.
        f'<svg viewBox="{box}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{body}</svg>'
    )


def _restyled(tag: str, name: str) -> str:
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    tag = tag.replace("fill: #ffffff", "fill: none").replace("xlink:href", "href")
    tag = re.sub(r"font-family: [^;]*; ", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", tag)
    # A tenth of a point is finer than any screen.
    tag = re.sub(r"\d+\.\d\d+", lambda n: f"{float(n[0]):.1f}", tag)
    tag = " ".join(tag.split())
    # A line goes on without being told so at every point.
    return tag if " C " in tag else re.sub(r"(?<=\d) L (?=[-\d])", " ", tag)


def _reading(report: Report, name: str) -> str:
    if name in READINGS:
        return READINGS[name](report)
    panel = PANELS[name]
    pairs = [(curve(report, each), label) for each, label in panel.quantities]
    measured = [(data, label) for data, label in pairs if data]
    if not measured:
        return ""
    if panel.scale == "share":
        return _highest(measured)
    data, label = measured[0]
    if name == "gradients":
        label = f"gradient {label}"
    if name == "jacobian":
        return f"Here the {label} is {_range(data)}."
    first, last = (_word(data.value[end], data.unit) for end in (0, -1))
    ends = f"{first} at layer {data.index[0]} and {last} at layer {data.index[-1]}"
    return f"Here the {label} is {ends}."


def _highest(measured: Sequence[tuple[Curve, str]]) -> str:
    """The largest of each share and the first layer that has it."""
    found = []
    for data, label in measured:
        top = max((share for share in data.value if share > 0), default=0.0)
        if top:
            layer = data.index[data.value.index(top)]
            place = f"{format_share(top)} (layer {layer})"
            found.append(f"{label.replace(':', '')}, {place}")
    if not found:
        return "Here all of them are zero."
    others = "; the others are zero" if len(found) < len(measured) else ""
    return f"The highest shares here: {'; '.join(found)}{others}."


def _word(value: float, unit: str) -> str:
    number = format_number(value, unit)
    words = {"0": "exactly 0", "NaN": "not a number", "inf": "infinite"}
    return words.get(number, number)


def _range(data: Curve) -> str:
    finite = [value for value in data.value if math.isfinite(value)]
    if not finite:
        return "not finite"
    low, high = (format_number(end(finite), data.unit) for end in (min, max))
    return low if low == high else f"between {low} and {high}"


def _heard(report: Report) -> str:
    data = curve(report, "sensitivity")
    if data is None:
        return ""
    texts = (_word(value, data.unit) for value in data.value)
    pairs = dict(zip(data.index, texts, strict=True))
    ends = dict.fromkeys((data.index[0], farthest(report)))
    found = [f"{pairs[r]} at {format_hops(r)}" for r in ends if r in pairs]
    return f"Here it is {' and '.join(found)}."


def _spread(report: Report) -> str:
    data = curve(report, "singular_values.below")
    if data is None:
        return ""
    texts = map(format_share, data.value, data.stderr)
    pairs = dict(zip(data.index, texts, strict=True))
    ends = dict.fromkeys((data.index[0], data.index[-1]))
    shares = " and ".join(f"{pairs[k]} of those of layer {k}" for k in ends)
    return f"Here {shares} are at most 0.1."


def _expected(report: Report) -> str:
    texts = []
    for name, label, word in (
        ("mean_squared_gain", "mean squared gain", "prediction"),
        ("largest_singular_value", "largest singular value", "bound"),
    ):
        pair, whole = beside_theory(report, name), curve(report, name)
        if pair and whole:
            (measured, said), count = map(_range, pair), len(pair[0].index)
            layers = f"layer{'s' * (count != 1)}"
            part = f" in {count} {layers}" if count < len(whole.index) else ""
            texts.append(f"the {label} is {measured}{part}, the {word} {said}")
    return f"Here {'; '.join(texts)}." if texts else ""


def _bounded(report: Report) -> str:
    texts = []
    for name, label in (
        ("feature_norm", "feature norm"),
        ("dirichlet_energy.combinatorial", "Dirichlet energy"),
    ):
        pair = beside_theory(report, name)
        if pair:
            value, bound = (_word(each.value[-1], each.unit) for each in pair)
            last = f"at layer {pair[0].index[-1]}"
            texts.append(f"the {label} is {value} {last}, the bound {bound}")
    return f"Here {'; '.join(texts)}." if texts else ""


def _trained(report: Report) -> str:
    rows = list(report.observations.select("loss.mean", TRAINING))
    if not rows:
        return ""
    first, last = (_word(rows[end].value, "1") for end in (0, -1))
    return f"Here the loss is {first} at step {rows[0].step}, {last} at the end."


READINGS = {
    "sensitivity": _heard,
    "density": _spread,
    "theory": _expected,
    "bounds": _bounded,
    "training": _trained,
}
"""Figures whose sentence is not about the two ends of the first line."""
