"""Under which names weights are kept beside those that are trained."""

from __future__ import annotations

OLD = "old"
"""The policy of some updates ago."""
REFERENCE = "reference"
"""The weights that the run began with."""
