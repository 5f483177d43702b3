"""The strength of a network in state-space form: criteria, and their search."""

from graphfathom.calibration.criteria import LABELS, Criteria, measure
from graphfathom.calibration.search import (
    Calibration,
    CalibrationError,
    calibrate,
    measure_both,
    set_strength,
)

__all__ = [
    "LABELS",
    "Calibration",
    "CalibrationError",
    "Criteria",
    "calibrate",
    "measure",
    "measure_both",
    "set_strength",
]
