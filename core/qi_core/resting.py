"""A conditioner that takes memory only while it is asked: of a trainer whose samples others encode.

The text encoder of the released model is 14 GB in bf16, and such a trainer needs it for the prompts of previews and
evaluations alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from qi_core.errors import QiError

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.data import Condition
    from qi_core.encoder import Conditioner

MOST = 256 * 2**20
"""Bytes of answers that are kept: the prompts of a preview are the same every time."""


class Resting:
    """See ``Conditioner``. Loaded by a call whose answer is not known, and let go of by ``rest``.

    Answers are kept by call and not by prompt, so that their last bit doesn't depend on who shared the call.
    """

    def __init__(self, load: Callable[[], Conditioner], width: int, device: torch.device) -> None:
        """``load``: loads the conditioner. ``width``: that it will have. ``device``: where its answers are wanted."""
        self._load, self._width, self._device = load, width, device
        self._awake: Conditioner | None = None
        self._known: OrderedDict[tuple[str, ...], Condition] = OrderedDict()

    @property
    def width(self) -> int:
        """See ``Conditioner``."""
        return self._width

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """See ``Conditioner``. Raises QiError if what was loaded is of another width than was told."""
        call = tuple(prompts)
        seen = any(references)
        if not seen and call in self._known:
            self._known.move_to_end(call)
            return self._known[call].to(self._device)
        if self._awake is None:
            self._awake = self._load()
            if self._awake.width != self._width:
                raise QiError(
                    f"conditioner: its settings tell a width of {self._width}, and {self._awake.width} was loaded; see "
                    "that the files belong together"
                )
        condition = self._awake.encode(prompts, references)
        if not seen:
            self._known[call] = condition.to(torch.device("cpu"))
            while sum(each.text.nbytes for each in self._known.values()) > MOST:
                self._known.popitem(last=False)
        return condition

    def rest(self) -> None:
        """Lets go of what was loaded."""
        if self._awake is not None:
            self._awake = None
            if self._device.type == "cuda":
                torch.cuda.empty_cache()  # in pieces of its own size it would be of little use to training
