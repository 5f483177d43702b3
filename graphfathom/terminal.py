"""One screen of text about a report: the verdict first, in words.

Never more than 40 lines of 100 columns. What does not fit is left out from the ends of
its sections, notes first and evidence last, and counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells, set_cell_size

from graphfathom.plotting import Curve, curve, run_label

if TYPE_CHECKING:
    from rich.console import Console

    from graphfathom.diagnostics.observations import Observation
    from graphfathom.diagnostics.report import Finding, Report

__all__ = [
    "SEVERITY_WORDS",
    "describe_data",
    "describe_guess",
    "describe_model",
    "format_count",
    "format_number",
    "format_share",
    "print_report",
    "render",
]

MAX_LINES, MAX_WIDTH, MIN_WIDTH = 40, 100, 50
INDENT, WORD, LABEL, SPARK, CELL = 2, 10, 16, 8, 9

SEVERITY_WORDS = {
    "healthy": "HEALTHY",
    "note": "NOTE",
    "unknown": "UNDECIDED",
    "warning": "WARNING",
    "critical": "CRITICAL",
}
"""How a verdict begins."""
STYLES = dict(
    zip(SEVERITY_WORDS, ("green", "cyan", "default", "yellow", "red"), strict=True)
)
PROFILE = (
    ("feature_rms", "feature RMS", "size of the features"),
    ("gradient.state", "gradient", "norm of the loss gradient there"),
    ("gain_to_output", "gain to output", "how much a change there changes the output"),
    ("effective_rank", "effective rank", "independent directions in the features"),
)
PARTS = ("train", "val", "test")
SCORES = {"loss": "loss"} | {f"accuracy.{part}": part for part in PARTS}
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
TO_ASCII = str.maketrans("·…–−×√", "-.--xv")


def format_number(value: float, unit: str = "1") -> str:
    """A number with two or three digits; a logarithm becomes what it stands for.

    Example:
        >>> format_number(-166.32, "log10"), format_number(-16.5, "log10")
        ('10^-166.3', '3.2e-17')
        >>> format_number(-math.inf, "log10"), format_number(0.25, "log10")
        ('0', '1.78')
    """
    if unit == "log10":
        if 100 <= abs(value) < math.inf:
            return f"10^{value:.1f}" if abs(value) < 1e5 else f"10^{value:.0e}"
        value = 10.0**value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:.0f}"
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    if not 9.995e-4 <= abs(value) < 99_999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:#.3g}" if abs(value) < 99.95 else f"{value:,.0f}"


def format_share(value: float) -> str:
    """A share as a percentage; what is not quite 0 or 1 does not read as if it were."""
    if not 0 <= value <= 1:
        return format_number(value)
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def format_count(number: object) -> str:
    """A whole number with its thousands set apart; anything else as it is."""
    return f"{number:,}" if type(number) is int else str(number)


def describe_model(report: Report) -> str:
    """The model in a few words: name, layers, parameters, dtype."""
    model, layers = report.model, len(report.layers)
    parts = [str(model.get("name") or "model")]
    if layers:
        parts.append(f"{layers:,} layer{'s' * (layers != 1)}")
    if "parameters" in model:
        parts.append(f"{format_count(model['parameters'])} parameters")
    parts.append(str(model.get("dtype") or "").removeprefix("torch."))
    return ", ".join(part for part in parts if part)


def describe_data(report: Report) -> str:
    """The data in a few words: name, nodes, edges, features."""
    keys, name = ("nodes", "edges", "features"), str(report.data.get("name") or "")
    given = [(key, report.data.get(key)) for key in keys]
    sizes = ", ".join(f"{format_count(n)} {key}" for key, n in given if n is not None)
    return f"{name} ({sizes})" if name and sizes else name or sizes


def render(report: Report, width: int = 100, *, ascii_only: bool = False) -> str:
    """The report as plain text of at most 40 lines.

    Args:
        report: What to show.
        width: Columns, at least 50; more than 100 are not used.
        ascii_only: Write nothing that an ASCII terminal could not show.

    Raises:
        ValueError: If ``width`` is less than 50.
    """
    return "\n".join(text for text, _ in _lines(report, width, ascii_only))


def print_report(report: Report, console: Console) -> None:
    """Print the report to a rich console.

    rich leaves colours out for files and pipes and where ``NO_COLOR`` is set.
    """
    from rich.text import Text

    plain = not console.encoding.lower().startswith("utf")
    for text, style in _lines(report, max(console.width, MIN_WIDTH), plain):
        console.print(Text(text, style), no_wrap=True, overflow="crop", crop=True)


_Line = tuple[str, str]


@dataclass
class _Block:
    """Items under a heading, from whose end may be dropped what does not fit."""

    heading: list[_Line]
    items: list[list[_Line]]
    least: int
    """Items that stay."""
    yields: int
    """Rank in which blocks give way; the highest goes first."""
    indent: int = INDENT
    counts: bool = True
    """Says how many items were dropped."""
    dropped: int = 0

    def lines(self) -> list[_Line]:
        lines = [*self.heading, *(line for item in self.items for line in item)]
        if self.dropped and self.counts:
            lines.append((f"{'':{self.indent}}… and {self.dropped} more", "dim"))
        return lines


def _lines(report: Report, width: int, ascii_only: bool) -> list[_Line]:
    if width < MIN_WIDTH:
        raise ValueError(f"`width` must be >= {MIN_WIDTH}. Got {width}.")
    width = min(width, MAX_WIDTH)
    bars = PLAIN_BARS if ascii_only else BARS
    blocks = [
        _verdict(report, width),
        *_verdict_details(report.verdict, width),
        _others(report.findings[1:], width),
        _profile(report, width, bars),
        _controls(report, width),
        _notes(report.notes, width),
        _cost(report, width),
    ]
    _fit(blocks)
    lines = [line for block in blocks for line in block.lines()][:MAX_LINES]
    if ascii_only:
        lines = [(_to_ascii(text), style) for text, style in lines]
    return [(_cut(text.rstrip(), width), style) for text, style in lines]


def _fit(blocks: Sequence[_Block]) -> None:
    while sum(len(block.lines()) for block in blocks) > MAX_LINES:
        giving = [block for block in blocks if len(block.items) > block.least]
        if not giving:
            return
        block = max(giving, key=lambda each: each.yields)
        block.items.pop()
        block.dropped += 1


def _verdict(report: Report, width: int) -> _Block:
    verdict = report.verdict
    word = SEVERITY_WORDS[verdict.severity]
    title = f"{word}: {verdict.title.removeprefix(f'{word.capitalize()}: ')}"
    style = f"bold {STYLES[verdict.severity]}"
    lines = [(line, style) for line in _wrap(title, width, 2)]
    data = describe_data(report)
    subject = describe_model(report) + (f", on {data}" if data else "")
    lines += [(line, "dim") for line in _wrap(subject, width, 2)]
    return _Block([], [lines, [("", "")]], least=2, yields=0)


def _verdict_details(verdict: Finding, width: int) -> list[_Block]:
    """Where, evidence, advice and source, each behind its word."""
    advice = [(f"{n}. ", each) for n, each in enumerate(verdict.advice, start=1)]
    return [
        _worded("Where", [("", verdict.where)], width, yields=0, most=2),
        _worded("Evidence", [("- ", e) for e in verdict.evidence], width, yields=2),
        _worded("Try", advice, width, yields=3),
        _worded("Basis", [("", verdict.source)], width, yields=4),
    ]


def _worded(
    word: str, texts: list[tuple[str, str]], width: int, yields: int, most: int = 3
) -> _Block:
    items = []
    for mark, text in texts:
        head = f"{word if not items else '':<{WORD}}{mark}"
        items.append([(line, "") for line in _hang(head, text, width, most)])
    items = [item for item in items if item]
    optional = word == "Basis"
    least = 0 if optional else min(1, len(items))
    return _Block([], items, least, yields, indent=WORD, counts=not optional)


def _others(findings: Sequence[Finding], width: int) -> _Block:
    items = []
    for each in findings:
        head = f"  {SEVERITY_WORDS[each.severity].lower():<{WORD}}"
        text = f"{each.title} ({each.where})" if each.where else each.title
        style = STYLES[each.severity]
        items.append([(line, style) for line in _hang(head, text, width, 1)])
    heading = [("", ""), ("Also found", "bold")] if items else []
    return _Block(heading, items, min(1, len(items)), yields=5)


def _notes(notes: Sequence[str], width: int) -> _Block:
    items = [[(line, "dim") for line in _hang("  - ", n, width, 2)] for n in notes]
    heading = [("", ""), ("Notes", "bold")] if items else []
    block = _Block(heading, items[:3], min(1, len(items)), yields=6)
    block.dropped = len(items) - len(block.items)
    return block


def _cost(report: Report, width: int) -> _Block:
    if not report.cost:
        return _Block([], [], 0, yields=0)
    stages = sorted(report.cost.items(), key=lambda stage: -stage[1])
    parts = [f"{name} {cost:.1f}" for name, cost in stages if name != "total"]
    total = report.cost.get("total", sum(report.cost.values()))
    text = f"Took {total:.1f} s: {', '.join(parts)}".removesuffix(": ")
    lines = _wrap(text, width, 1)
    return _Block([("", "")], [[(line, "dim") for line in lines]], 1, yields=0)


def _profile(report: Report, width: int, bars: str) -> _Block:
    """The states at about eight depths: one row per quantity."""
    found = [(curve(report, name), label, meaning) for name, label, meaning in PROFILE]
    rows = [(data, label, meaning) for data, label, meaning in found if data]
    if not rows:
        return _Block([], [], 0, yields=0)
    indices = sorted({index for data, _, _ in rows for index in data.index})
    texts = []
    for data, _, _ in rows:
        numbers = (format_number(value, data.unit) for value in data.value)
        texts.append(dict(zip(data.index, numbers, strict=True)))
    cell = max(CELL, *(len(text) + 1 for row in texts for text in row.values()))
    room = (width - INDENT - LABEL - SPARK) // cell
    chosen = _spread(indices, max(2, min(8, room)))
    cells = "".join(f"{index:>{cell}}" for index in chosen)
    items = [[(f"  {'after layer':<{LABEL + SPARK}}{cells}", "dim")]]
    for (data, label, _), row in zip(rows, texts, strict=True):
        cells = "".join(f"{row.get(index, '-'):>{cell}}" for index in chosen)
        spark = _sparkline(data, indices, bars)
        items.append([(f"  {label:<{LABEL}}{spark}{cells}", "")])
    legend = "; ".join(f"{label}: {meaning}" for _, label, meaning in rows)
    lines = _hang(" " * INDENT, f"{legend}.", width, 3)
    items.append([(line, "dim") for line in lines])
    heading = [("", ""), ("Through the depth", "bold")]
    return _Block(heading, items, len(items) - 1, yields=4, counts=False)


def _sparkline(data: Curve, indices: Sequence[int], bars: str) -> str:
    """The course of the logarithm; 0 for an exact zero, x for what is not finite."""
    heights = data.log10()
    finite = [height for height in heights if math.isfinite(height)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    # At least a decade high, so that a level line looks level: in the fifth bar.
    span = max(high - low, 1.0)
    low -= (span - (high - low)) * 4.5 / 8
    marks = {}
    for index, height in zip(data.index, heights, strict=True):
        if math.isfinite(height):
            marks[index] = bars[min(7, int(8 * ((height - low) / span)))]
        else:
            marks[index] = "0" if height < 0 else "x"
    chosen = _spread(indices, SPARK - 1)
    return f"{''.join(marks.get(index, ' ') for index in chosen):<{SPARK}}"


def _controls(report: Report, width: int) -> _Block:
    """Scores of every run, and what guessing reaches."""
    table = [(run, _scores(report, run)) for run in report.observations.runs()]
    table = [(run, scores) for run, scores in table if scores]
    if not table:
        return _Block([], [], 0, yields=0)
    names = [name for name in SCORES if any(name in scores for _, scores in table)]
    label = min(24, width - INDENT - CELL * len(names))
    words = "".join(f"{SCORES[name]:>{CELL}}" for name in names)
    items = [[(f"  {'':<{label}}{words}", "dim")]]
    for run, scores in table:
        cells = "".join(f"{scores.get(name, '-'):>{CELL}}" for name in names)
        text = set_cell_size(_cut(_clean(run_label(run)), label - 1), label)
        items.append([(f"  {text}{cells}", "")])
    lines = _hang(" " * INDENT, describe_guess(report), width, 1)
    items += [[(line, "dim") for line in lines]] if lines else []
    heading = [("", ""), ("Controls" if len(table) > 1 else "Scores", "bold")]
    return _Block(heading, items, min(3, len(items)), yields=1)


def _scores(report: Report, run: str) -> dict[str, str]:
    rows = [report.observations.get(name, run=run) for name in SCORES]
    return {row.name: _score(row) for row in rows if row}


def _score(row: Observation) -> str:
    if row.name.startswith("accuracy"):
        return format_share(row.value)
    return format_number(row.value, row.unit)


def describe_guess(report: Report) -> str:
    """What is reached without looking at the input; "" if that was not measured."""
    names = {"loss.constant": "loss", "accuracy.majority": "accuracy"}
    rows = [report.observations.get(name) for name in names]
    texts = ", ".join(f"{names[row.name]} {_score(row)}" for row in rows if row)
    return f"The best constant guess: {texts}." if texts else ""


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly, with the first and the last."""
    if len(indices) <= count:
        return list(indices)
    step = (len(indices) - 1) / (count - 1)
    return [indices[round(place * step)] for place in range(count)]


def _clean(text: str) -> str:
    """One line without control characters and terminal escapes."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", " ".join(str(text).split()))
    return "".join(sign for sign in text if sign.isprintable())


def _to_ascii(text: str) -> str:
    return text.translate(TO_ASCII).encode("ascii", "replace").decode()


def _cut(text: str, width: int) -> str:
    """The text, shortened to a width with an ellipsis."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def _wrap(text: str, width: int, most: int) -> list[str]:
    """Lines of at most ``width`` columns; the last of ``most`` takes an ellipsis."""
    lines, line = [], ""
    pieces = (chop_cells(word, width) for word in _clean(text).split())
    for word in chain.from_iterable(pieces):
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= width:
            line = longer
        else:
            lines.append(line)
            line = word
    lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], _cut(f"{lines[most - 1]} …", width)]
    return [line for line in lines if line]


def _hang(head: str, text: str, width: int, most: int) -> list[str]:
    """Wrapped text behind a head, the following lines indented below it."""
    lines = _wrap(text, width - len(head), most)
    return [(" " * len(head) if n else head) + line for n, line in enumerate(lines)]
