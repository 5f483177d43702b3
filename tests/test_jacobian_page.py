"""docs/jacobian.md: what is shown is what comes out, from top to bottom."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "jacobian.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("float32_default")
def test_the_examples_give_what_they_show() -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert all(">>>" in block for block in blocks)
    examples = doctest.DocTestParser().get_doctest(
        "\n".join(blocks), {}, PAGE.name, str(PAGE), 0
    )
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    found = runner.run(examples, out=report.append)
    assert not found.failed, "".join(report)
    assert found.attempted > 20
