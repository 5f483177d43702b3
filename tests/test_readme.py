"""The README: its Python runs, and its numbers are those of the benchmarks.

A table stands between ``<!-- benchmarks/results/NAME.md -->`` and ``<!-- end -->`` and
is that file, whose cells are values of ``NAME.json`` beside it. A number with a unit
(10.2 s, 81.5 %, 3 times) or a power of ten (10^-10.2), in prose or in shown output,
occurs in some ``benchmarks/results/*.json``, rounded as it may be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(
    r"^<!-- (benchmarks/results/\w+)\.md -->\n(.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
UNITS = r"ms|s|seconds?|minutes?|hours?|%|×|times|kB|MB|GB|points?"
MEASURED = re.compile(rf"(?<![\w.^-])(\d+(?:\.\d+)?) ?(?:{UNITS})(?!\w)")
POWER = re.compile(r"10\^(-?\d+(?:\.\d+)?)")
PLACEHOLDER = re.compile(r"^(?:[A-Z]{3,}|TODO.*|\.\.\.)$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not TEXT, reason="README.md does not exist yet")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of some languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def leaves(value: Any) -> Iterator[float | str]:
    """The numbers and strings of a JSON value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    elif isinstance(value, int | float | str) and not isinstance(value, bool):
        yield value


def numbers(values: list[float | str]) -> list[float]:
    """The numbers, those inside strings included, and shares as percentages."""
    found = [float(v) for v in values if not isinstance(v, str)]
    for text in (v for v in values if isinstance(v, str)):
        found += [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)]
    return [*found, *(100 * value for value in found)]


def is_rounding(shown: str, values: list[float]) -> bool:
    """Whether a decimal number is one of the values, rounded to as many digits."""
    digits = -int(Decimal(shown).as_tuple().exponent)
    half = 0.5 * 10**-digits * (1 + 1e-9)
    return any(abs(float(shown) - value) <= half for value in values)


def prose(text: str) -> str:
    """What a reader takes for a statement: no code, comments, links or tables."""
    text = QUOTE.sub("", text)
    shown = blocks(text, "text")
    text = FENCE.sub("", text)
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)|`[^`\n]*`", " ", text, flags=re.DOTALL)
    return "\n".join([text, *shown])


def claims(text: str) -> list[str]:
    """The measured numbers of the prose."""
    text = prose(text)
    return [*MEASURED.findall(text), *POWER.findall(text)]


def results() -> list[float | str]:
    files = sorted(RESULTS.glob("*.json"))
    return [leaf for f in files for leaf in leaves(json.loads(f.read_text("utf-8")))]


def cells(table: str) -> list[str]:
    """The cells below the header of a Markdown table."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [cell.strip() for line in lines[2:] for cell in line.strip("|").split("|")]


def is_quoted(cell: str, values: list[float | str]) -> bool:
    """Whether a cell is a string or a rounded number of the values."""
    if cell in values or cell in {"not trained", "diverged", "–", "-", ""}:
        return True
    number = rf"(-?\d+(?:\.\d+)?) ?(?:{UNITS})?"
    parts = [re.fullmatch(number, part) for part in cell.split(" ± ")]
    return all(part and is_rounding(part[1], numbers(values)) for part in parts)


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float32_default: None
) -> None:
    """As one program, from the first block to the last."""
    monkeypatch.chdir(tmp_path)
    found = blocks(TEXT, "python")
    assert found
    space: dict[str, Any] = {"__name__": "__main__"}
    for number, body in enumerate(found):
        exec(compile(body, f"README.md, block {number}", "exec"), space)


def test_nothing_is_left_to_be_filled_in() -> None:
    without_code = FENCE.sub("", TEXT)
    assert not PLACEHOLDER.findall(without_code)


def test_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", re.sub(r"\s+", " ", TEXT))
    local = [link for link in links if "://" not in link]
    assert local
    assert not [link for link in local if not (ROOT / link).exists()]


def test_every_table_is_a_file_of_results() -> None:
    quoted = QUOTE.findall(TEXT)
    loose = QUOTE.sub("", FENCE.sub("", TEXT))
    assert not re.findall(r"^\|.*", loose, re.MULTILINE), "a table without its source"
    for name, body in quoted:
        assert body.strip() == (ROOT / f"{name}.md").read_text("utf-8").strip(), name


def test_cells_of_quoted_tables_are_results() -> None:
    for name, body in QUOTE.findall(TEXT):
        values = list(leaves(json.loads((ROOT / f"{name}.json").read_text("utf-8"))))
        assert cells(body)
        assert not [cell for cell in cells(body) if not is_quoted(cell, values)], name


def test_measured_numbers_are_results() -> None:
    values = numbers(results())
    assert not [number for number in claims(TEXT) if not is_rounding(number, values)]


def test_the_number_of_convolutions_is_that_of_the_table() -> None:
    exact, total = re.search(r"(\d+) of PyG's (\d+)\s+convolutions", TEXT).groups()
    table = (ROOT / "docs" / "generated" / "conv_table.md").read_text("utf-8")
    assert f"Of {total} convolutions: {exact} exact" in table


def test_numbers_with_a_unit_are_found() -> None:
    text = (
        "It takes 9.8 s and 20 % less, 64 layers, Python 3.11, 2-fold; `3 s` of "
        "[code](a/5 s).\n```python\n7 s\n```\n```text\nfalls to 10^-10.2 at 4 s\n```\n"
        "<!-- benchmarks/results/x.md -->\n| 8 s |\n<!-- end -->\n"
    )
    assert claims(text) == ["9.8", "20", "4", "-10.2"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("84.5 ± 0.7", True), ("84.5 ± 0.8", False), ("84.6 ± 0.7", False), ("–", True)],
)
def test_cells_with_a_spread(cell: str, expected: bool) -> None:
    assert is_quoted(cell, [84.48, 0.68]) is expected


@pytest.mark.parametrize(
    ("shown", "values", "expected"),
    [
        ("9.8", [9.812], True),
        ("9.8", [9.86], False),
        ("10", [9.5], True),
        ("81.5", [81.5], True),
        ("-10.2", [-10.21], True),
        ("10.2", [-10.2], False),
        ("1", [], False),
    ],
)
def test_rounding(shown: str, values: list[float], expected: bool) -> None:
    assert is_rounding(shown, values) is expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("GCN", True), ("64", True), ("81.5 %", True), ("82.5 %", False), ("SGC", False)],
)
def test_cells(cell: str, expected: bool) -> None:
    assert is_quoted(cell, ["GCN", 64, 0.815]) is expected


def test_cells_are_read_below_the_header() -> None:
    assert cells("| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |") == [*"1x2y"]


def test_placeholders_are_found() -> None:
    assert PLACEHOLDER.findall("TABLE\nA TABLE\nCOST\nTODO later\n") == [
        "TABLE",
        "COST",
        "TODO later",
    ]
