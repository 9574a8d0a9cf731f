"""Settings of the engine "remote"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Engine
    from qi_core.engine import Workshop


def _addresses(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError(f"'{attribute.name}' is empty; wanted addresses that 'qi produce' printed")
    for each in value:
        if not each.startswith(("http://", "https://", "unix:")):
            raise ValueError(f"'{attribute.name}' holds {each!r}; wanted http://host:port, https:// or unix:/path")


def _whole(instance: RemoteEngine, attribute: Attribute[Path | None], value: Path | None) -> None:
    given = (instance.tls_certificate, instance.tls_key, value)
    if any(given) and not all(given):
        raise ValueError("of 'tls_certificate', 'tls_key' and 'tls_authority' some are missing; give all or none")


@frozen(kw_only=True)
class RemoteEngine:
    """Producers that ``qi produce`` has started, on this machine or others. They are given this run's recipe; what is
    trained on does not depend on how many there are, nor on when they come and go."""

    producers: tuple[str, ...] = field(validator=_addresses)
    """Addresses: http://host:port, https://host:port, unix:/path. The nearest are asked first."""
    token_file: Path | None = None
    """File of one line, which the producers want as a token."""
    tls_certificate: Path | None = None
    """This side's certificate (PEM), where producers want one (mTLS)."""
    tls_key: Path | None = None
    """Its key (PEM)."""
    tls_authority: Path | None = field(default=None, validator=_whole)
    """Who has signed the producers' certificates (PEM)."""
    window: int = field(default=8, validator=validators.gt(0))
    """Portions that each trainer has under way at once."""
    timeout: float = field(default=300.0, validator=validators.gt(0))
    """Seconds without any producer after which the run ends."""
    hedge: float = field(default=5.0, validator=validators.ge(0))
    """A portion that takes longer than so many seconds, and than three times the usual, is asked of another too."""

    def build(self, shop: Workshop) -> Engine:
        from qi_core.calls import read_token
        from qi_core.plane.client import Care
        from qi_core.plane.producer import Call
        from qi_core.plane.pulling import Pulling
        from qi_core.plane.wire import Tls

        token = read_token(self.token_file) if self.token_file else ""
        tls = None
        if self.tls_certificate and self.tls_key and self.tls_authority:
            tls = Tls(certificate=self.tls_certificate, key=self.tls_key, authority=self.tls_authority).client()
        care = Care(window=self.window, timeout=self.timeout, hedge=self.hedge)
        return Pulling(self.producers, Call(token=token, tls=tls), care, shop.pinned)
