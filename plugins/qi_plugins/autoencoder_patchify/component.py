"""The settings of ``patchify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Place
    from qi_core.planning import Size
    from qi_plugins.autoencoder_patchify.patches import Patches


@frozen(kw_only=True)
class Patchify:
    """Cuts a picture into squares; the values of a square are a token. Lossless: the denoiser works on pixels.

    For small pictures on small machines, where a VAE would cost more than the denoiser.
    """

    patch: int = field(default=8, validator=validators.gt(0))
    """Pixels along one side of a token. Few tokens matter more to the speed of learning than few values in each."""

    def build(self, place: Place) -> Patches:
        from qi_plugins.autoencoder_patchify.patches import Patches

        return Patches(patch=self.patch, device=place.device)

    def plan_size(self) -> Size:
        """See ``qi_core.planning.Sized``."""
        from qi_core.planning import Size

        return Size(width=3 * self.patch**2, scale=self.patch)
