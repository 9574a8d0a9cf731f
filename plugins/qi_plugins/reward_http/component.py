"""The settings of ``http``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen, validators

from qi_core.calls import Endpoint

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.reward_http.client import Remote


@frozen(kw_only=True)
class Http(Endpoint):
    """A reward of another process, such as ``qi reward serve``; docs/rewards.md has the protocol.

    A request that failed is sent again under the same id, and scored once. Pictures are never compressed with loss.
    """

    reward: str
    """Which of the server's rewards."""
    groupwise: bool = False
    """Whether that reward ranks whole groups; the server says so too, and both must agree."""
    batch: int = field(default=16, validator=validators.gt(0))
    """Pictures a request; fewer where the server's limits want it, whole groups where it ranks them."""
    encoding: Literal["raw", "png"] = "raw"
    """How pictures travel: "raw" is quick to pack, "png" about half as large for a slow network."""
    wait: float = field(default=10.0, validator=validators.ge(0))
    """Seconds that the server may take to answer for the first time, when the run starts."""

    def build(self, place: Place) -> Remote:
        from qi_plugins.reward_http.client import build

        return build(self)
