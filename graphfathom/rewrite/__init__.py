"""Any network into state-space form, and back."""

from graphfathom.rewrite.carrier import StepError
from graphfathom.rewrite.convert import to_state_space
from graphfathom.rewrite.form import RewriteError, StateSpaceModel, unwrap

__all__ = ["RewriteError", "StateSpaceModel", "StepError", "to_state_space", "unwrap"]
