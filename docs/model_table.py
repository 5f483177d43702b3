"""Write the tables of compared models into ``docs/generated/model_table.md``.

Run it from anywhere: ``python docs/model_table.py``. The first table is read from the
docstrings, the second is measured, see ``tests/model_outcomes.py``.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import torch  # noqa: E402 - needs no path, but belongs below the others
from model_outcomes import (  # noqa: E402 - found through the path above
    Outcome,
    examine,
    model_class,
    papers,
)
from zoo_cases import ALL  # noqa: E402 - the same

TARGET = ROOT / "docs" / "generated" / "model_table.md"

CLASSES = """\
# Compared models

| class | what it is | paper |
| --- | --- | --- |
"""

VARIANTS = """
## What was measured

Each variant is built with 4 layers of width 8 on a graph of 8 nodes. *Needs*: what it
takes besides `x` and `edge_index`. *Parameters*: with 64 features, width 64, 8 layers
and 7 classes. *Captured*: a diagnosis finds every layer. *State*: the tensors that it
finds between two layers, `x` made by the layer and `x@k` handed on. *Stabilized*:
`gf.stabilize` puts it into state-space form. *256 layers*: outputs and gradients are
finite in float32, as the tests of all models check.

| variant | class and options | needs | parameters | captured | state | stabilized \
| 256 layers |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Examine every model and write the tables."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    rows = [format_row(examine(name, case)) for name, case in ALL.items()]
    TARGET.write_text(class_table() + VARIANTS + "".join(rows), encoding="utf-8")
    print(f"{len(rows)} variants: {TARGET.relative_to(ROOT)}")


def class_table() -> str:
    """Every class once, by name."""
    found = {model_class(case) for case in ALL.values()}
    lines = [CLASSES]
    for model in sorted(found, key=lambda model: model.__name__.lower()):
        first = (inspect.getdoc(model) or "").partition("\n")[0]
        cited = "; ".join(f"[{authors}]({url})" for authors, url in papers(model))
        lines.append(f"| `{model.__name__}` | {first} | {cited} |\n")
    return "".join(lines)


def format_row(row: Outcome) -> str:
    """One line of the table of variants."""
    cells = (
        row.name,
        " ".join(filter(None, (f"`{row.model}`", row.options))),
        row.needs,
        str(row.num_parameters),
        row.captured,
        f"`{row.state}`" if row.state else "",
        row.stabilized,
        row.deep,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    main()
