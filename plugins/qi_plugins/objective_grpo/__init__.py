"""Objectives of reinforcement learning: grpo, nft and awm. All three take what the source ``rollouts`` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qi_core import hookimpl

if TYPE_CHECKING:
    from qi_core import Objective


@hookimpl
def qi_objectives() -> dict[str, type[Objective[Any]]]:
    from qi_plugins.objective_grpo.awm import Awm
    from qi_plugins.objective_grpo.grpo import Grpo
    from qi_plugins.objective_grpo.nft import Nft

    return {"grpo": Grpo, "nft": Nft, "awm": Awm}
