"""Numbers and things in words, for the terminal and for the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphfathom.diagnostics.observations import Observation
    from graphfathom.diagnostics.report import Report

__all__ = [
    "describe_data",
    "describe_guess",
    "describe_model",
    "format_count",
    "format_hops",
    "format_number",
    "format_power",
    "format_score",
    "format_share",
]


def format_number(value: float, unit: str = "1") -> str:
    """A number with two or three digits; a logarithm becomes what it stands for.

    Example:
        >>> format_number(-166.32, "log10"), format_number(-16.5, "log10")
        ('10^-166.3', '3.2e-17')
        >>> format_number(-math.inf, "log10"), format_number(0.25, "log10")
        ('0', '1.78')
    """
    if unit == "log10":
        if 100 <= abs(value) < math.inf:
            return f"10^{value:.1f}" if abs(value) < 1e5 else f"10^{value:.0e}"
        value = 10.0**value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:.0f}"
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    if not 9.995e-4 <= abs(value) < 99_999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:#.3g}" if abs(value) < 99.95 else f"{value:,.0f}"


def format_power(log10: float) -> str:
    """A decimal logarithm as a power of ten, or as the number if that is near 1.

    Example:
        >>> format_power(-12.34), format_power(-1.5), format_power(-math.inf)
        ('10^-12.3', '0.0316', '0')
    """
    if 4 <= abs(log10) < 100:
        return f"10^{log10:.1f}"
    return format_number(log10, "log10")


def format_share(value: float, stderr: float | None = None) -> str:
    """A share as a percentage; what is not quite 0 or 1 does not read as if it were.

    Example:
        >>> format_share(0.5), format_share(0.5, 0.26), format_share(1e-9)
        ('50.0 %', '50 ± 26 %', '< 0.1 %')
    """
    if stderr and math.isfinite(value):
        digits = 1 if stderr < 0.01 else 0
        return f"{100 * value:.{digits}f} ± {100 * stderr:.{digits}f} %"
    if not 0 <= value <= 1:
        return format_number(value)
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def format_count(number: object) -> str:
    """A whole number with its thousands set apart; anything else as it is."""
    return f"{number:,}" if type(number) is int else str(number)


def format_hops(hops: int) -> str:
    """A distance: ``"1 hop"``, ``"9 hops"``."""
    return f"{hops:,} hop{'s' * (hops != 1)}"


def describe_model(report: Report) -> str:
    """The model in a few words: name, layers, parameters, dtype."""
    model, layers = report.model, len(report.layers)
    parts = [str(model.get("name") or "model")]
    if layers:
        parts.append(f"{layers:,} layer{'s' * (layers != 1)}")
    if "parameters" in model:
        parts.append(f"{format_count(model['parameters'])} parameters")
    parts.append(str(model.get("dtype") or "").removeprefix("torch."))
    return ", ".join(part for part in parts if part)


def describe_data(report: Report) -> str:
    """The data in a few words: name, nodes, edges, features."""
    keys, name = ("nodes", "edges", "features"), str(report.data.get("name") or "")
    given = [(key, report.data.get(key)) for key in keys]
    sizes = ", ".join(f"{format_count(n)} {key}" for key, n in given if n is not None)
    return f"{name} ({sizes})" if name and sizes else name or sizes


def describe_guess(report: Report) -> str:
    """What is reached without looking at the input; "" if that was not measured."""
    names = {"loss.constant": "loss", "accuracy.majority": "accuracy"}
    rows = [report.observations.get(name) for name in names]
    texts = ", ".join(f"{names[row.name]} {format_score(row)}" for row in rows if row)
    return f"The best constant guess: {texts}." if texts else ""


def format_score(row: Observation) -> str:
    """An accuracy as a percentage, anything else as a number in its unit."""
    if row.name.startswith("accuracy"):
        return format_share(row.value)
    return format_number(row.value, row.unit)
