"""Write the table of PyG's convolutions into ``docs/generated/conv_table.md``.

Run it from anywhere: ``python docs/conv_table.py``. Every row is measured, see
``tests/conv_outcomes.py``.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import torch_geometric  # noqa: E402 - needs no path, but belongs below the others
from conv_catalogue import ENTRIES  # noqa: E402 - found through the path above
from conv_outcomes import Outcome, examine  # noqa: E402 - the same

TARGET = ROOT / "docs" / "generated" / "conv_table.md"

HEADER = """\
# Convolutions of PyTorch Geometric

Each convolution of `torch_geometric.nn` {version} was put into a network of two:
encoder, convolution, tanh, convolution, tanh, read-out. *Exact*: the Jacobians
between the states in front of, between and behind the convolutions equal the dense
truth to nine digits in float64. *Layers* are those found in this network: modules that
propagate several times inside one call may count more than once. *State* names the
tensors that separate the two convolutions: `x` is what the layer made, `x@k` what state
k handed on.

{summary}

| convolution | `MessagePassing` | layers | state | outcome |
| --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Examine every convolution and write the table."""
    rows = [examine(entry) for entry in ENTRIES]
    counts = Counter(row.outcome.split(":")[0] for row in rows)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    text = HEADER.format(
        version=torch_geometric.__version__,
        summary=f"Of {len(rows)} convolutions: {summary}.",
    )
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text + "".join(map(format_row, rows)), encoding="utf-8")
    print(f"{summary}: {TARGET.relative_to(ROOT)}")


def format_row(row: Outcome) -> str:
    """One line of the table."""
    cells = (
        row.name,
        "yes" if row.is_message_passing else "no",
        str(row.num_layers or ""),
        f"`{row.state}`" if row.state else "",
        row.outcome.replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
