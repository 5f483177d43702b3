"""The verbs: what a person asks of the library."""

from graphfathom.verbs.comparison import CONTROLS, controls
from graphfathom.verbs.diagnosis import diagnose
from graphfathom.verbs.stabilization import before_after, stabilize

__all__ = ["CONTROLS", "before_after", "controls", "diagnose", "stabilize"]
