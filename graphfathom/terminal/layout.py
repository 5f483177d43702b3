"""Text of a given width: cleaned, cut, wrapped."""

from __future__ import annotations

import re
from itertools import chain

from rich.cells import cell_len, chop_cells, set_cell_size

__all__ = ["clean", "cut", "hang", "to_ascii", "wrap"]

TO_ASCII = str.maketrans("·…–−×√", "-.--xv")


def clean(text: str) -> str:
    """One line without control characters and terminal escapes."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", " ".join(str(text).split()))
    return "".join(sign for sign in text if sign.isprintable())


def to_ascii(text: str) -> str:
    """The text in signs that every terminal has."""
    return text.translate(TO_ASCII).encode("ascii", "replace").decode()


def cut(text: str, width: int) -> str:
    """The text, shortened to a width with an ellipsis."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def wrap(text: str, width: int, most: int) -> list[str]:
    """Lines of at most ``width`` columns; the last of ``most`` takes an ellipsis."""
    lines, line = [], ""
    pieces = (chop_cells(word, width) for word in clean(text).split())
    for word in chain.from_iterable(pieces):
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= width:
            line = longer
        else:
            lines.append(line)
            line = word
    lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], cut(f"{lines[most - 1]} …", width)]
    return [line for line in lines if line]


def hang(head: str, text: str, width: int, most: int) -> list[str]:
    """Wrapped text behind a head, the following lines indented below it."""
    lines = wrap(text, width - len(head), most)
    return [(" " * len(head) if n else head) + line for n, line in enumerate(lines)]
