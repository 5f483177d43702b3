"""Pages of examples: what is shown is what comes out, from top to bottom."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("float32_default")
@pytest.mark.parametrize("name", ["jacobian.md", "models.md"])
def test_the_examples_give_what_they_show(name: str) -> None:
    page = DOCS / name
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert all(">>>" in block for block in blocks)
    examples = doctest.DocTestParser().get_doctest(
        "\n".join(blocks), {}, name, str(page), 0
    )
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    found = runner.run(examples, out=report.append)
    assert not found.failed, "".join(report)
    assert found.attempted > 10
