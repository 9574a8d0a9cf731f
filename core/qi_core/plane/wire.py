"""What a trainer and a producer say to each other; docs/transport.md has it in words. Nothing is ever pickled.

Small messages are JSON; a portion is the body of ``qi_core.packing``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec
from attrs import field, frozen
from msgspec import Meta, Struct

from qi_core.errors import QiError
from qi_core.portions import Order

if TYPE_CHECKING:
    from ssl import SSLContext

SCHEMA = 1
"""Changes with every change of a message that an older side would misread."""
PORTION, SPEC, HEALTH, STATS, SHARD = "/v1/portion", "/v1/rpc/spec", "/v1/health", "/v1/stats", "/v1/shard"
SUM, MADE_BY, ANSWERS = "X-Qi-Xxh3", "X-Qi-Spec", "X-Qi-Order"
"""Headers of a portion: its checksum (sixteen hexadecimal digits), the spec it was made by, the name of its order."""
BODY = "application/vnd.qi.portion"
LARGEST = 8 << 20
"""Bytes of a message that is no portion."""
M = TypeVar("M", bound=Struct)

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Whole = Annotated[int, Meta(ge=0)]


class Unreadable(Exception):
    """A message that is none; the text says why, for the other side to read."""


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """``qi_core.portions.Order``."""

    spec: Name
    step: Whole
    number: Whole
    tickets: Annotated[tuple[tuple[int, ...], ...], Meta(min_length=1, max_length=1 << 16)]
    slots: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=1 << 16)]
    made_of: Annotated[tuple[tuple[str, str], ...], Meta(max_length=1 << 16)] = ()
    schema: int = SCHEMA


class Spec(Struct, frozen=True, forbid_unknown_fields=True):
    """What orders are carried out by, and its name."""

    spec: Name
    definition: str
    schema: int = SCHEMA


class Problem(Struct, frozen=True):
    """The body of every answer with a status other than 200."""

    error: str
    specs: tuple[str, ...] = ()
    """Those that are known, where it was another that was asked for."""
    schema: int = SCHEMA


class Health(Struct, frozen=True):
    """It answers at all."""

    specs: tuple[str, ...]
    status: str = "ok"
    schema: int = SCHEMA


class Stats(Struct, frozen=True):
    """Since the producer began."""

    orders: int = 0
    """Asked for, those that were asked for again included."""
    again: int = 0
    """Of them answered by what was made, or was being made, for an earlier one."""
    sent: int = 0
    """Bodies sent whole."""
    bytes: int = 0
    """In them."""
    busy: int = 0
    """Told to come again."""
    failed: int = 0
    """Orders that could not be carried out."""
    held: int = 0
    """Bytes in memory now."""
    workers: int = 0
    """Alive now."""
    deaths: dict[str, int] = {}
    """Workers that ended in the middle of something, by reason."""
    schema: int = SCHEMA


def encode(message: Struct) -> bytes:
    return msgspec.json.encode(message)


def decode(body: bytes, kind: type[M]) -> M:
    """Raises Unreadable unless it is a whole message of that kind and of this schema."""
    try:
        schema = msgspec.json.decode(body, type=_Version).schema
        if schema != SCHEMA:
            raise Unreadable(f"schema {schema}; wanted {SCHEMA}: both sides need versions of qi that fit")
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no {kind.__name__.lower()} ({error})") from error


class _Version(Struct, frozen=True):
    schema: int


def asked(order: Order) -> bytes:
    """The same bytes for the same order."""
    return encode(
        Asked(
            spec=order.spec,
            step=order.step,
            number=order.number,
            tickets=order.tickets,
            slots=order.slots,
            made_of=order.made_of,
        )
    )


def order_of(body: bytes) -> Order:
    """Raises Unreadable."""
    message = decode(body, Asked)
    if len(message.tickets) != len(message.slots):
        raise Unreadable(f"{len(message.tickets)} tickets for {len(message.slots)} slots")
    return Order(
        spec=message.spec,
        step=message.step,
        number=message.number,
        tickets=message.tickets,
        slots=message.slots,
        made_of=message.made_of,
    )


def name_of(body: bytes) -> str:
    """Names an order by what it says: who asks again, or twice, asks for the same."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


@frozen(kw_only=True)
class Address:
    """Where a producer is called: ``http://host:port``, ``https://host:port`` or ``unix:/path``."""

    text: str
    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def distance(self) -> int:
        """Nearest first: a socket of this machine, its loopback, another machine."""
        if self.scheme == "unix":
            return 0
        return 1 if is_loopback(self.host) else 2

    @staticmethod
    def of(text: str) -> Address:
        """Raises QiError."""
        wanted = f"producer {text!r}: want http://host:port, https://host:port or unix:/path"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise QiError(wanted) from error
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return Address(text=text, scheme="unix", path=parts.path)
        extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None or extra:
            raise QiError(wanted)
        return Address(text=text, scheme=parts.scheme, host=parts.hostname, port=port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can call by this name."""
    import ipaddress

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@frozen(kw_only=True)
class Tls:
    """Both sides show certificates and each checks the other's (mTLS)."""

    certificate: Path = field(converter=Path)
    """PEM file with this side's certificate, and those between it and the authority."""
    key: Path = field(converter=Path)
    """PEM file with its private key."""
    authority: Path = field(converter=Path)
    """PEM file with the certificate that the other side's must be signed by."""

    def server(self) -> SSLContext:
        """Who has no certificate of the authority's is not spoken to. Raises QiError."""
        import ssl

        return self._loaded(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))

    def client(self) -> SSLContext:
        """Raises QiError."""
        import ssl

        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _loaded(self, context: SSLContext) -> SSLContext:
        import ssl

        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise QiError(
                f"{self.certificate}, {self.key}, {self.authority}: can't be used for TLS ({error}); want PEM files "
                "of a certificate, its key and the authority's certificate"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        return context
