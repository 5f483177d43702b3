"""The report as one HTML page that needs nothing but itself, and as a notebook card.

No scripts, no fonts, no requests: the page can be mailed, archived and read offline, in
a light or a dark room, on a telephone or on paper.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from graphfathom.html import content, illustrations, theory
from graphfathom.terminal import (
    SEVERITY_WORDS,
    describe_data,
    describe_model,
    format_number,
    format_share,
)

if TYPE_CHECKING:
    from graphfathom.diagnostics.report import Report

__all__ = ["fragment", "render"]

CONTROLS = dict.fromkeys((*range(9), *range(11, 32), 127))
"""Translates every control character but tab and newline to nothing."""


def render(report: Report) -> str:
    """The whole report as the text of one HTML file."""
    figures = illustrations.draw(report)
    hero = illustrations.figure_for(report.verdict.name, figures)
    values = {
        "report": report,
        "title": _title(report),
        "verdict": report.verdict,
        "others": [
            (finding, illustrations.figure_for(finding.name, figures))
            for finding in report.findings[1:]
        ],
        "figures": [each for each in figures if each is not hero],
        "hero": hero,
        "quiet": illustrations.quiet(report),
        "tiles": content.key_figures(report),
        "predictions": theory.predictions(report),
        "controls": content.controls(report),
        "layers": content.layer_table(report),
        "facts": content.facts(report),
        "cost": content.cost(report),
        "definitions": content.definitions(report),
    }
    return _environment().get_template("report.html").render(values)


def fragment(report: Report) -> str:
    """The verdict as a small card for a notebook; styles are inline and stay inside."""
    values = {"report": report, "verdict": report.verdict}
    return _environment().get_template("fragment.html").render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(prose=_prose, headline=_headline)
    environment.globals.update(
        describe_data=describe_data,
        describe_model=describe_model,
        format_number=format_number,
        format_share=format_share,
        severity_words=SEVERITY_WORDS,
    )
    return environment


def _printable(value: object) -> object:
    """Without control characters, which HTML does not allow."""
    return value.translate(CONTROLS) if isinstance(value, str) else value


def _title(report: Report) -> str:
    names = [report.model.get("name") or "model", report.data.get("name")]
    return f"{' on '.join(str(name) for name in names if name)}: {report.verdict.title}"


def _headline(title: str) -> str:
    """The title without the word that stands above it anyway."""
    for word in SEVERITY_WORDS.values():
        title = title.removeprefix(f"{word.capitalize()}: ")
    return title[:1].upper() + title[1:]


def _prose(text: object) -> Markup:
    """Escaped text with `code`, powers of ten and web addresses set as such."""
    html = str(escape(text))
    html = re.sub(r"(?<=±) (?=\d)|(?<=\d) (?=%)", "\u202f", html)
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(
        r"\bhttps?://[^\s<]*[^\s<.,;:)]",
        lambda match: f'<a href="{match[0]}" rel="noreferrer">{match[0]}</a>',
        html,
    )
    pieces = re.split(r"(<(?:code|a)\b.*?</(?:code|a)>)", html)
    return Markup("".join(p if p.startswith("<") else _powers(p) for p in pieces))


def _powers(text: str) -> str:
    """``3.2e-17`` and ``10^-166.3`` with raised exponents."""
    scientific = r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?)0*(\d+)\b"
    text = re.sub(scientific, "\\1\u202f×\u202f10^\\2\\3", text)
    text = re.sub(r"\b10\^\+?(-?\d+(?:\.\d+)?)", r"10<sup>\1</sup>", text)
    return text.replace("<sup>-", "<sup>−")
