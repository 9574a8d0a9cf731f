"""The engine "ray" at work: rank 0 has the actors made, every rank pulls from them."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from qi_core import QiError
from qi_core.engine import Workshop
from qi_core.plane.client import Care
from qi_core.plane.producer import Call
from qi_core.plane.pulling import Pulling
from qi_plugins.engine_ray.component import RayEngine

NAMESPACE = "qi"
LOOK = 1.0
"""Seconds between two looks at where the actors are."""
ANSWER = 60.0
"""Seconds in which an actor that is there must say so: its producer may be starting."""


class Cluster(Pulling):
    """Ray says where producers are; portions are pulled from them over HTTP, and never come through Ray."""

    def __init__(self, settings: RayEngine, shop: Workshop) -> None:
        if not settings.address:
            if shop.ranks > 1:
                raise QiError(
                    f"data.engine.address is empty, and the run has {shop.ranks} ranks, which a Ray that one of them "
                    'starts can\'t serve; start one (ray start --head) and set address = "auto"'
                )
            _guard()
        self._ray = _ray()
        self._settings, self._shop = settings, shop
        self._name = "qi-" + hashlib.blake2b(str(shop.folder.resolve()).encode(), digest_size=8).hexdigest()
        self._begun = self._join()
        secret = shop.folder / "producers.token"
        self._actors = self._make(secret) if shop.rank == 0 else self._find(secret)
        token = secret.read_text().strip()
        self._ending = threading.Event()
        addresses = self._first()
        care = Care(window=settings.window, timeout=settings.timeout)
        super().__init__(addresses, Call(token=token), care, shop.pinned)
        self._watcher = threading.Thread(target=self._watch, name="qi-ray", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        self._ending.set()
        super().close()
        self._watcher.join(ANSWER)
        if self._shop.rank == 0:
            for actor in self._actors:
                self._ray.kill(actor)
        if self._begun or self._shop.rank:
            self._ray.shutdown()

    def _join(self) -> bool:
        """Whether this process is in Ray by this engine's doing."""
        if self._ray.is_initialized():
            return False
        address = self._settings.address or None
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            self._ray.init(
                address=address, namespace=NAMESPACE, include_dashboard=False, log_to_driver=False,
                logging_level="WARNING", configure_logging=False,
            )  # fmt: skip
        except Exception as error:  # Ray raises what its parts raise
            where = f"at {address}" if address else "here"
            raise QiError(
                f"data.engine: no Ray {where} ({type(error).__name__}: {str(error)[:300]}); start a cluster "
                "(ray start --head), or leave address out"
            ) from error
        return True

    def _make(self, secret: Path) -> list[Any]:
        token = secrets.token_hex(32)
        _keep(secret, token)
        settings = self._settings
        words = [*self._shop.command, "produce", "--processes", str(settings.processes)]
        words += ["--deadline", f"{settings.deadline:g}", "--memory", str(settings.memory)]
        words += ["--device", settings.device or ("auto" if settings.gpus else "cpu")]
        words += ["--folder", str(self._shop.folder.resolve())] if not settings.address else []
        from qi_plugins.engine_ray.host import Host

        kind = self._ray.remote(Host)
        environment = {"QI_PRODUCER_TOKEN": token}
        try:
            return self._placed(kind, words, environment)
        except ValueError as error:
            raise QiError(
                f"data.engine: Ray still has producers of this run's folder ({error}); see that no other run goes on "
                "in it, and try again in a minute"
            ) from error

    def _placed(self, kind: Any, words: list[str], environment: dict[str, str]) -> list[Any]:
        """Actors, asked of Ray. Raises ValueError where there are some of these names."""
        settings = self._settings
        return [
            kind.options(
                name=f"{self._name}-{number}",
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
                get_if_exists=False,
            ).remote(words, environment, not settings.address)
            for number in range(settings.actors)
        ]

    def _find(self, secret: Path) -> list[Any]:
        """Those that rank 0 has made."""
        deadline = time.monotonic() + self._settings.timeout
        while True:
            try:
                names = [f"{self._name}-{number}" for number in range(self._settings.actors)]
                found = [self._ray.get_actor(name, namespace=NAMESPACE) for name in names]
                if secret.exists():
                    return found
            except ValueError:
                pass
            if time.monotonic() > deadline:
                raise QiError(
                    f"data.engine: rank 0 has made no actors within {self._settings.timeout:g} s; see its log"
                )
            time.sleep(LOOK)

    def _first(self) -> list[str]:
        """Where the first of them listen: Ray may have room for a part of them only."""
        deadline = time.monotonic() + self._settings.timeout
        while time.monotonic() < deadline:
            if found := self._addresses():
                return found
        free = self._ray.available_resources()
        raise QiError(
            f"data.engine: Ray has placed no producer within {self._settings.timeout:g} s; each wants "
            f"{self._settings.cpus:g} CPUs and {self._settings.gpus:g} GPUs, and there are {free.get('CPU', 0):g} and "
            f"{free.get('GPU', 0):g} free; ask for less, or add machines"
        )

    def _addresses(self) -> list[str]:
        asked = [actor.address.remote() for actor in self._actors]
        ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=5.0)
        found: list[str] = []
        for each in ready:
            try:
                found.append(self._ray.get(each, timeout=ANSWER))
            except Exception as error:  # dead, being started again, or its producer could not begin
                self._shop.tell(f"a producer of Ray's does not answer ({type(error).__name__})")
        return found

    def _watch(self) -> None:
        """An actor that is started again listens elsewhere."""
        while not self._ending.wait(LOOK):
            try:
                found = self._addresses()
            except Exception as error:
                self._shop.tell(f"Ray does not answer ({type(error).__name__}: {str(error)[:200]})")
                continue
            if found:
                self.puller.meet(found)


def _keep(secret: Path, token: str) -> None:
    """In a file that nobody but this user could ever read."""
    beside = secret.with_name(f".{secret.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token)
    beside.rename(secret)


def _guard() -> None:
    """Who could reach a Ray could run anything as this user: the one that is started here wants a token. Ray reads
    these when it is imported."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise QiError('data.engine = "ray": Ray is not installed; install qi[ray]') from error
    return ray
