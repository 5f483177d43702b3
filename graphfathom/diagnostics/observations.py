"""One measured number, and the table of all of them.

Every measure returns :class:`Observation` records; findings, reports, plots, monitors
and run metrics are functions of their table, :class:`Observations`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["TRAINING", "Observation", "Observations"]

TRAINING = "training"
"""The run of what was measured while the model was trained, step by step."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured number with where, when and how it was measured.

    A quantity whose unit is ``"log10"`` stores the decimal logarithm: products over a
    thousand layers leave the range of float64. ``-inf`` is an exact zero there.
    """

    name: str
    """What was measured, e.g. ``"feature_rms"``."""
    place: str
    """``"state:k"`` for k = 0..L, ``"layer:k"`` for k = 1..L, ``"distance:r"`` for
    pairs of nodes r hops apart, or ``"model"``."""
    value: float
    """The number, in :attr:`unit`."""
    stderr: float | None = None
    """Standard error of a stochastic estimate; None for an exact number."""
    unit: str = "1"
    """Unit, ``"1"`` if dimensionless."""
    dtype: str = "float64"
    """Precision the number was measured in."""
    run: str = "model"
    """Which network: ``"model"``, ``"model (eval)"``, or a control, ``"shallow"``."""
    step: int = 0
    """Training step."""
    batch: int = 0
    """Index of the mini-batch."""

    @property
    def index(self) -> int | None:
        """The number behind the colon; None for ``"model"``."""
        return int(self.place.split(":")[1]) if ":" in self.place else None


class Observations:
    """An immutable table of observations.

    Args:
        rows: The observations, in the order they were measured.

    Example:
        >>> rows = [Observation("loss", f"state:{k}", 1 / (k + 1)) for k in range(2)]
        >>> table = Observations(rows)
        >>> table.series("loss")
        ([0, 1], [1.0, 0.5])
        >>> table.value("loss", "state:1")
        0.5
    """

    def __init__(self, rows: Iterable[Observation] = ()) -> None:
        self._rows = tuple(rows)

    def __iter__(self) -> Iterator[Observation]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observations) and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(self._rows)

    def __add__(self, other: Observations) -> Observations:
        return Observations((*self, *other))

    def __repr__(self) -> str:
        names, runs = len(self.names()), ", ".join(self.runs())
        return f"Observations({len(self)} rows, {names} names, runs: {runs})"

    def names(self) -> list[str]:
        """The measured names, in order of first appearance."""
        return list(dict.fromkeys(row.name for row in self))

    def runs(self) -> list[str]:
        """The measured runs, in order of first appearance."""
        return list(dict.fromkeys(row.run for row in self))

    def networks(self) -> list[str]:
        """The runs that are one network at one time: all but :data:`TRAINING`."""
        return [run for run in self.runs() if run != TRAINING]

    def select(
        self, name: str | None = None, run: str | None = None, place: str | None = None
    ) -> Observations:
        """Rows that agree with every given field."""
        return Observations(
            row
            for row in self
            if (name is None or row.name == name)
            and (run is None or row.run == run)
            and (place is None or row.place == place)
        )

    def get(
        self, name: str, place: str = "model", run: str = "model"
    ) -> Observation | None:
        """The latest observation of a name at a place, or None if there is none."""
        rows = self.select(name, run, place)._rows
        return rows[-1] if rows else None

    def value(self, name: str, place: str = "model", run: str = "model") -> float:
        """The latest value of a name at a place; NaN if it was not measured."""
        row = self.get(name, place, run)
        return math.nan if row is None else row.value

    def series(self, name: str, run: str = "model") -> tuple[list[int], list[float]]:
        """Indices and values of a per-state or per-layer name, sorted by index.

        Several values of one index stay in the order in which they were measured.
        """
        pairs = [
            (row.index, row.value)
            for row in self.select(name, run)
            if row.index is not None
        ]
        pairs.sort(key=lambda pair: pair[0])
        return [index for index, _ in pairs], [value for _, value in pairs]

    def to_rows(self) -> list[dict[str, Any]]:
        """A list of plain dictionaries, one per observation."""
        return [asdict(row) for row in self]

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]]) -> Observations:
        """The inverse of :meth:`to_rows`."""
        return cls(Observation(**row) for row in rows)

    def to_csv(self) -> str:
        """The table as CSV text with a header line."""
        buffer = io.StringIO()
        writer = csv.DictWriter(
            buffer, [field.name for field in fields(Observation)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(self.to_rows())
        return buffer.getvalue()
