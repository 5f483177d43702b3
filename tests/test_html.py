"""The page: self-contained, small, accessible, escaped, and true to the report."""

from __future__ import annotations

import itertools
import math
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_factory import KINDS, make_report, report_of, states

import graphfathom
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.report import SEVERITIES, Finding
from graphfathom.html import content, fragment, illustrations, render
from graphfathom.plotting import PANELS

VOID = {"meta", "br", "hr", "img", "link", "input"}
STYLE = Path(graphfathom.__file__).parent / "html" / "templates" / "style.css"


class Page(HTMLParser):
    """Elements, with a check that every one is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def headings(self) -> list[int]:
        tags = [tag for tag, _ in self.elements]
        return [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]


@cache
def page_of(depth: int = 64, kind: str = "vanishing") -> str:
    return render(make_report(depth, kind))


@pytest.fixture
def text() -> str:
    return page_of()


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(page_of())


@cache
def drawn(kind: str) -> dict[str, illustrations.Illustration]:
    return {each.name: each for each in illustrations.draw(make_report(64, kind))}


@pytest.mark.parametrize("kind", KINDS)
def test_every_report_becomes_a_valid_page(kind):
    page = Page(page_of(64, kind))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in page.all("a") + page.all("use")]
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(ids)
    levels = page.headings()
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("depth", [1, 2])
def test_shallow_networks_have_a_page(depth):
    Page(page_of(depth))


@pytest.mark.parametrize("kind", ["vanishing", "non-finite"])
def test_a_thousand_layers_stay_below_500_kilobytes(kind):
    assert len(render(make_report(1000, kind)).encode()) < 500_000


def test_nothing_is_loaded(page, text):
    for tag in ("script", "link", "iframe", "img", "object", "embed", "audio", "video"):
        assert page.all(tag) == []
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", text))
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or (tag == "a" and name == "href")


def test_the_verdict_comes_first(text):
    places = [
        text.index(part)
        for part in (
            "<h1>Gradients vanish on the way to the first layers</h1>",
            "layers 1-58 of 64",
            "At the first layer the gradient of the loss",
            "<h2>Also found</h2>",
            "<h2>Through the depth</h2>",
            "<h2>Controls</h2>",
            "<h2>Layer by layer</h2>",
            "<h2>Notes</h2>",
            "<h2>How this was measured</h2>",
            "<h2>What the measures mean</h2>",
        )
    ]
    assert places == sorted(places)


def test_accessible(page, text):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("title")) == 1 + len(page.all("svg"))
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert len((svg["aria-labelledby"] or "").split()) == 2
    assert all("scope" in header for header in page.all("th"))
    for box in [d for d in page.all("div") if d.get("class") == "scroll"]:
        assert box["aria-label"]
        assert box["tabindex"] == "0"
    assert "width=device-width" in text
    assert "prefers-color-scheme: dark" in text


def themes() -> list[dict[str, str]]:
    """The colours of the light and of the dark page."""
    blocks = re.findall(r":root \{(.*?)\n *\}", STYLE.read_text(), re.DOTALL)
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in blocks
    )
    return [light, {**light, **dark}]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Of WCAG 2.2, from 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_contrast(theme):
    for name in ("ink", "muted", "link", *SEVERITIES):
        assert contrast(theme[name], theme["paper"]) >= 4.5, name
        assert contrast(theme[name], theme["card"]) >= 4.5, name
    for variable in illustrations.VARIABLES.values():
        if variable != "--rule":
            assert contrast(theme[variable[2:]], theme["paper"]) >= 3, variable


def test_figures_follow_the_colours_of_the_page(text):
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        used = set(re.findall(r"var\((--[\w-]+)\)", svg))
        assert used <= set(illustrations.VARIABLES.values())
        assert not re.search(r"(fill|stroke|color): #", svg)
        assert "font-family" not in svg
        assert "<style" not in svg


def test_ticks_survive_the_rounding_of_coordinates():
    report = report_of(*states("feature_rms", (0.0, -2.0), "log10"))
    assert ">0.01</text>" in render(report)


def test_the_figure_of_the_verdict_stands_beside_it():
    for kind, name in (("vanishing", "gradients"), ("zero", "numerics")):
        text = page_of(64, kind)
        assert text.index(f'id="figure-{name}"') < text.index("<h2>Also found</h2>")
        assert text.count(f'id="figure-{name}"') == 1


def test_findings_link_to_their_figure(page):
    assert "#figure-smoothing" in [link["href"] for link in page.all("a")]


@pytest.mark.parametrize("name", PANELS)
def test_every_figure_has_a_caption(name):
    assert illustrations.CAPTIONS[name].endswith(".")
    assert drawn("vanishing")[name].reading.endswith(".")
    assert "  " not in illustrations.CAPTIONS[name]


def test_readings_say_what_is_seen():
    reading = drawn("vanishing")["gradients"].reading
    assert re.match(r"Here the gradient of state is \S+ at layer 0 and", reading)
    reading = drawn("vanishing")["numerics"].reading
    assert reading == (
        "The highest shares here: states exactly 0, 48.0 % (layer 0); gradients exactly"
        " 0, 40.0 % (layer 0); the others are zero."
    )
    reading = drawn("non-finite")["gradients"].reading
    assert reading.startswith("Here the gradient of state is not a number at layer 0")


def test_figures_of_nothing_but_zeros_become_a_sentence():
    zeros = states("exact_zeros", [0.0, 0.0], "share")
    text = render(report_of(*zeros, *states("subnormals", [0.0, 0.0], "share")))
    assert "figure-numerics" not in text
    sentence = "zero in every layer: states: exactly 0, states: subnormal."
    assert sentence in " ".join(text.split())


def test_foreign_text_is_escaped():
    text = page_of(64, "hostile")
    assert "<script" not in text
    assert "<img" not in text
    assert "onerror=alert" in text
    assert "&lt;img src=x" in text
    assert "\x1b" not in text
    assert "<script" not in fragment(make_report(kind="hostile"))


def test_a_network_with_hostile_names():
    report = make_report(4)
    names = tuple(f'</td><script>"{k}' for k in range(4))
    rows = [
        Observation(row.name, row.place, row.value, run="</text><script>")
        for row in report.observations
    ]
    page = Page(render(report_of(*rows, layers=names)))
    assert page.all("script") == []


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("10^-166.3 of it", "10<sup>−166.3</sup> of it"),
        ("3.2e-17", "3.2\u202f×\u202f10<sup>−17</sup>"),
        ("1.6e-03", "1.6\u202f×\u202f10<sup>−3</sup>"),
        ("call `f(1e-3)` now", "call <code>f(1e-3)</code> now"),
        ("0.2 %", "0.2\u202f%"),
        (
            "see https://a.org/b?c=1&d.",
            'see <a href="https://a.org/b?c=1&amp;d" rel="noreferrer">'
            "https://a.org/b?c=1&amp;d</a>.",
        ),
    ],
)
def test_prose(source, shown):
    finding = Finding("x", "X", "note", "", (source,), (), "")
    text = render(report_of(findings=(finding,)))
    assert f"<li>{shown}</li>" in text


def test_the_severity_is_not_said_twice():
    finding = Finding("healthy", "Healthy: all is well", "healthy", "", (), (), "")
    text = render(report_of(findings=(finding,)))
    assert "<h1>All is well</h1>" in text


def test_a_page_with_nothing_but_a_finding():
    text = page_of(64, "bare")
    assert "Not enough evidence for a verdict" in text
    assert "<h2>" not in text
    assert "None" not in text


def test_all_layers_up_to_the_limit():
    table = content.layer_table(make_report(128))
    assert table is not None
    assert [int(row[0]) for row in table.rows] == list(range(129))
    assert table.note == ""


def test_many_layers_are_sampled_and_it_is_said():
    table = content.layer_table(make_report(1000))
    assert table is not None
    indices = [int(row[0]) for row in table.rows]
    assert indices == sorted(set(indices))
    assert (indices[0], indices[-1]) == (0, 1000)
    assert content.MAX_ROWS <= len(indices) <= content.MAX_ROWS + 16
    assert table.note.startswith(f"{len(indices)} of 1,001 rows")
    place = table.header.index("Largest singular value")
    assert sum(row[place] != "–" for row in table.rows) == 16


def test_the_layer_table_says_what_was_measured():
    table = content.layer_table(make_report(2))
    assert table is not None
    layers = [row[1] for row in table.rows]
    assert layers == ["before the first", "convs.0", "convs.1"]
    place = table.header.index("Exact zeros")
    assert [row[place] for row in table.rows] == ["48.0 %"] * 3
    place = table.header.index("Mean squared gain")
    assert table.rows[0][place] == "–"


def test_controls():
    table = content.controls(make_report())
    assert table is not None
    assert table.header == ("Network", "Loss", "Train", "Validation", "Test")
    assert [row[0] for row in table.rows][:2] == ["model", "model, eval mode"]
    assert table.note == "The best constant guess: loss 1.95, accuracy 30.2 %."
    assert content.controls(make_report(kind="tiny")) is None


def test_key_figures():
    tiles = {tile.label: tile for tile in content.key_figures(make_report())}
    assert tiles["Gradient at the first state"].value == "1.3e-11"
    assert tiles["Effective rank of the last state"].note == "directions, from 39.8"
    assert tiles["Test accuracy"].value == "18.0 %"


@pytest.mark.parametrize(
    ("first", "last", "value"),
    [
        (-math.inf, 0.0, "exactly 0"),
        (math.nan, 0.0, "not finite"),
        (math.inf, 0.0, "not finite"),
        (-200.0, 0.0, "10^-200.0"),
        (-1.0, -1.0, "1"),
    ],
)
def test_key_figures_of_extreme_gradients(first, last, value):
    rows = states("gradient.state", (first, last), "log10")
    (tile,) = content.key_figures(report_of(*rows))
    assert tile.value == value


def test_loss_is_shown_without_accuracies():
    loss, guess = ("loss", "model", 0.5), ("loss.constant", "model", 2.0)
    report = report_of(Observation(*loss), Observation(*guess))
    (tile,) = content.key_figures(report)
    assert (tile.value, tile.note) == ("0.500", "constant guess: 2")


def test_accuracy_of_an_untrained_network_says_so():
    accuracy = Observation("accuracy.val", "model", 0.5)
    (tile,) = content.key_figures(report_of(accuracy, settings={"mode": "init"}))
    assert tile.label == "Validation accuracy, untrained"


def test_facts_of_every_kind():
    nested = {"f": 1234, "g": [1, "h"]}
    settings = {"a_b": None, "c": True, "d": 1e-9, "e": nested, "i": 5000}
    ((title, entries),) = content.facts(report_of(settings=settings))
    assert title == "Settings"
    assert entries[:3] == [("a b", "–"), ("c", "yes"), ("d", "1.0e-9")]
    assert entries[3:] == [("e", "f: 1,234, g: 1, h"), ("i", "5,000")]


def test_only_measured_quantities_are_defined():
    terms = [term for term, _ in content.definitions(make_report(kind="tiny"))]
    assert terms == ["Feature RMS", "Gradient of state"]


def test_every_shown_quantity_is_defined():
    prefixes = [prefix for _, prefix, _ in content.DEFINITIONS]
    names = [name for panel in PANELS.values() for name, _ in panel.quantities]
    # Explained together with the first of their group.
    grouped = ("gain_quantile", "zero_columns", "subnormals", "non_finite", "gradient_")
    for name in names:
        assert name.startswith((*prefixes, *grouped)), name


@pytest.mark.parametrize("kind", KINDS)
def test_fragment_is_a_card_with_inline_styles(kind):
    text = fragment(make_report(kind=kind))
    page = Page(text)
    assert page.all("style") == page.all("script") == []
    assert not any(
        "class" in attributes or "id" in attributes for _, attributes in page.elements
    )


def test_fragment_says_the_verdict():
    text = " ".join(Page(fragment(make_report())).text)
    for part in ("Critical", "Gradients vanish", "layers 1-58 of 64", "Also found"):
        assert part in text


def test_rendering_is_reproducible(text):
    assert render(make_report()) == text
