"""The tables of compared models in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from model_outcomes import describe, examine, model_class, papers
from zoo_cases import ALL

TABLE = Path(__file__).parent.parent / "docs" / "generated" / "model_table.md"
AGAIN = "Run `python docs/model_table.py`."
FEW = ("adgn", "gcn, jk cat", "mlp")
"""Variants that are measured again: one that all is done with, two that are refused."""


def rows() -> dict[str, list[str]]:
    """Variant -> the other cells of its line in the second table."""
    _, _, second = TABLE.read_text("utf-8").partition("## What was measured")
    lines = [line for line in second.splitlines() if line.startswith("| ")][2:]
    cells = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]
    return {name: others for name, *others in cells}


def test_every_variant_has_a_row() -> None:
    assert list(rows()) == list(ALL), AGAIN


@pytest.mark.parametrize("name", ALL)
def test_a_row_says_what_the_model_is(name: str) -> None:
    found, case = describe(name, ALL[name]), ALL[name]
    model, needs, parameters, captured, _, stabilized, deep = rows()[name]
    assert model == " ".join(filter(None, (f"`{found['model']}`", found["options"])))
    assert needs == found["needs"]
    assert int(parameters) == found["num_parameters"]
    # What the tests of all models expect of it.
    assert (captured == "yes") == (case.refused is None)
    assert (stabilized == "yes") == (case.stabilized is None)
    assert deep == found["deep"]


@pytest.mark.parametrize("name", FEW)
def test_a_row_is_what_is_measured(name: str) -> None:
    found = examine(name, ALL[name])
    state = f"`{found.state}`" if found.state else ""
    expected = [found.captured, state, found.stabilized]
    assert rows()[name][3:6] == expected, AGAIN


@pytest.mark.parametrize("name", ALL)
def test_every_class_names_its_paper(name: str) -> None:
    model = model_class(ALL[name])
    line = next(
        line
        for line in TABLE.read_text("utf-8").splitlines()
        if line.startswith(f"| `{model.__name__}` |")
    )
    assert papers(model)
    assert all(f"[{authors}]({url})" in line for authors, url in papers(model))
