"""Where a monitor writes its rows while training runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import encode

__all__ = ["JsonLines", "TensorBoard", "Writer", "read_json_lines"]


class Writer(Protocol):
    """Anything that takes rows: a tracker is three lines around its own client."""

    def write(self, rows: Sequence[Observation]) -> None:
        """Take the rows of one measured step."""

    def close(self) -> None:
        """Give back what is held open."""


class JsonLines:
    """One row a line, appended to a file and readable while the training runs.

    JSON has no NaN and no infinity: they are the strings ``"nan"``, ``"inf"`` and
    ``"-inf"``. Read the file with :func:`read_json_lines`.

    Args:
        path: The file; its folder is made if it is not there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = JsonLines(f"{folder}/run.jsonl")
        ...     writer.write([Observation("loss", "model", 0.5, step=20)])
        ...     writer.close()
        ...     read_json_lines(f"{folder}/run.jsonl").value("loss")
        0.5
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def __repr__(self) -> str:
        return f"JsonLines({str(self.path)!r})"

    def write(self, rows: Sequence[Observation]) -> None:
        """Append the rows; the file is made with the first."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        for row in Observations(rows).to_rows():
            self._file.write(json.dumps(encode(row), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_json_lines(path: str | Path) -> Observations:
    """The rows that :class:`JsonLines` wrote.

    A last line without an end, as a run that was killed leaves it, is left out.

    Args:
        path: The file.

    Returns:
        The table, ready for ``graphfathom.diagnose(..., trajectory=...)``.

    Raises:
        ValueError: If a line is no observation.
    """
    rows = []
    text = Path(path).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            for name in ("value", "stderr"):
                row[name] = float(row[name]) if row[name] is not None else None
            rows.append(Observation(**row))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"`path` must hold one observation a line. Got {line.strip()[:60]!r} "
                f"in line {number} of {path}: give a file that JsonLines wrote."
            ) from error
    return Observations(rows)


class TensorBoard:
    """Scalars for TensorBoard, tagged ``"name/place"``, e.g. ``"feature_rms/layer_3"``.

    Args:
        target: A folder, or any object with ``add_scalar(tag, value, global_step)``,
            such as a ``SummaryWriter`` that is there already; that one stays open.

    Raises:
        ImportError: If a folder is given and TensorBoard is not installed.
        TypeError: If ``target`` is neither.

    Example:
        >>> class Printer:
        ...     def add_scalar(self, tag, value, global_step):
        ...         print(tag, value, global_step)
        >>> TensorBoard(Printer()).write([Observation("loss", "model", 0.5, step=20)])
        loss/model 0.5 20
    """

    def __init__(self, target: Any) -> None:
        self._owns = isinstance(target, str | Path)
        if not self._owns and not callable(getattr(target, "add_scalar", None)):
            raise TypeError(
                "`target` must be a folder or have `add_scalar(tag, value, "
                f"global_step)`. Got {type(target).__name__}."
            )
        self._target = _summary_writer(str(target)) if self._owns else target

    def write(self, rows: Sequence[Observation]) -> None:
        """Add one scalar for each row."""
        for row in rows:
            # TensorBoard has no colon in tags.
            tag = f"{row.name}/{row.place.replace(':', '_')}"
            self._target.add_scalar(tag, row.value, row.step)

    def close(self) -> None:
        """Close the writer of a folder."""
        if self._owns:
            self._target.close()


def _summary_writer(folder: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"TensorBoard is not installed, and a folder ({folder!r}) needs it: `pip "
            "install graphfathom[tensorboard]`, or pass an object with `add_scalar`."
        ) from error
    return SummaryWriter(folder)
