"""One screen of text about a report: the verdict first, in words.

Never more than 40 lines of 100 columns. What does not fit is left out from the ends of
its sections, notes first and evidence last, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import set_cell_size

from graphfathom.plotting import Curve, curve, run_label
from graphfathom.terminal.deep import deep_lines, farthest
from graphfathom.terminal.formats import (
    describe_data,
    describe_guess,
    describe_model,
    format_count,
    format_hops,
    format_number,
    format_power,
    format_score,
    format_share,
)
from graphfathom.terminal.layout import clean, cut, hang, to_ascii, wrap

if TYPE_CHECKING:
    from rich.console import Console

    from graphfathom.diagnostics.report import Finding, Report

__all__ = [
    "SEVERITY_WORDS",
    "describe_data",
    "describe_guess",
    "describe_model",
    "farthest",
    "format_count",
    "format_hops",
    "format_number",
    "format_power",
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
        *_profile(report, width, bars),
        _controls(report, width),
        _notes(report.notes, width),
        _cost(report, width),
    ]
    _fit(blocks)
    lines = [line for block in blocks for line in block.lines()][:MAX_LINES]
    if ascii_only:
        lines = [(to_ascii(text), style) for text, style in lines]
    return [(cut(text.rstrip(), width), style) for text, style in lines]


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
    lines = [(line, style) for line in wrap(title, width, 2)]
    data = describe_data(report)
    subject = describe_model(report) + (f", on {data}" if data else "")
    lines += [(line, "dim") for line in wrap(subject, width, 2)]
    return _Block([], [lines, [("", "")]], least=2, yields=0)


def _verdict_details(verdict: Finding, width: int) -> list[_Block]:
    """Where, evidence, advice and source, each behind its word."""
    advice = [(f"{n}. ", each) for n, each in enumerate(verdict.advice, start=1)]
    return [
        _worded("Where", [("", verdict.where)], width, yields=0, most=2),
        _worded("Evidence", [("- ", e) for e in verdict.evidence], width, yields=2),
        _worded("Try", advice, width, yields=3),
        _worded("Basis", [("", verdict.source)], width, yields=5),
    ]


def _worded(
    word: str, texts: list[tuple[str, str]], width: int, yields: int, most: int = 3
) -> _Block:
    items = []
    for mark, text in texts:
        head = f"{word if not items else '':<{WORD}}{mark}"
        items.append([(line, "") for line in hang(head, text, width, most)])
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
        items.append([(line, style) for line in hang(head, text, width, 1)])
    heading = [("", ""), ("Also found", "bold")] if items else []
    return _Block(heading, items, min(1, len(items)), yields=6)


def _notes(notes: Sequence[str], width: int) -> _Block:
    items = [[(line, "dim") for line in hang("  - ", n, width, 2)] for n in notes]
    heading = [("", ""), ("Notes", "bold")] if items else []
    block = _Block(heading, items[:3], min(1, len(items)), yields=7)
    block.dropped = len(items) - len(block.items)
    return block


def _cost(report: Report, width: int) -> _Block:
    if not report.cost:
        return _Block([], [], 0, yields=0)
    stages = sorted(report.cost.items(), key=lambda stage: -stage[1])
    parts = [f"{name} {cost:.1f}" for name, cost in stages if name != "total"]
    total = report.cost.get("total", sum(report.cost.values()))
    text = f"Took {total:.1f} s: {', '.join(parts)}".removesuffix(": ")
    lines = wrap(text, width, 1)
    return _Block([("", "")], [[(line, "dim") for line in lines]], 1, yields=0)


def _profile(report: Report, width: int, bars: str) -> list[_Block]:
    """The states at about eight depths, a row per quantity; then the whole depth."""
    found = [(curve(report, name), label, meaning) for name, label, meaning in PROFILE]
    rows = [(data, label, meaning) for data, label, meaning in found if data]
    if not rows:
        return [_deep(report, width)]
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
    lines = [(line, "dim") for line in hang(" " * INDENT, f"{legend}.", width, 3)]
    heading = [("", ""), ("Through the depth", "bold")]
    return [
        _Block(heading, items, len(items), yields=0),
        _deep(report, width),
        _Block([], [lines], 0, yields=5, counts=False),
    ]


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


def _deep(report: Report, width: int) -> _Block:
    """What a deep diagnosis adds, in a line each."""
    heads = [(f"  {label:<{LABEL}}", text) for label, text in deep_lines(report)]
    items = [
        [(line, "") for line in hang(head, text, width, 1)] for head, text in heads
    ]
    return _Block([], items, min(1, len(items)), yields=4, counts=False)


def _controls(report: Report, width: int) -> _Block:
    """Scores of every run, and what guessing reaches."""
    table = [(run, _scores(report, run)) for run in report.observations.networks()]
    table = [(run, scores) for run, scores in table if scores]
    if not table:
        return _Block([], [], 0, yields=0)
    names = [name for name in SCORES if any(name in scores for _, scores in table)]
    label = min(24, width - INDENT - CELL * len(names))
    words = "".join(f"{SCORES[name]:>{CELL}}" for name in names)
    items = [[(f"  {'':<{label}}{words}", "dim")]]
    for run, scores in table:
        cells = "".join(f"{scores.get(name, '-'):>{CELL}}" for name in names)
        text = set_cell_size(cut(clean(run_label(run)), label - 1), label)
        items.append([(f"  {text}{cells}", "")])
    lines = hang(" " * INDENT, describe_guess(report), width, 1)
    items += [[(line, "dim") for line in lines]] if lines else []
    heading = [("", ""), ("Controls" if len(table) > 1 else "Scores", "bold")]
    return _Block(heading, items, min(3, len(items)), yields=1)


def _scores(report: Report, run: str) -> dict[str, str]:
    rows = [report.observations.get(name, run=run) for name in SCORES]
    return {row.name: format_score(row) for row in rows if row}


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly, with the first and the last."""
    if len(indices) <= count:
        return list(indices)
    step = (len(indices) - 1) / (count - 1)
    return [indices[round(place * step)] for place in range(count)]
