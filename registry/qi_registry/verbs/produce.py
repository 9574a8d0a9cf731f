"""qi produce"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    import asyncio

TOKEN_ENV = "QI_PRODUCER_TOKEN"


class Produce:
    """Make and encode samples for runs: qi produce [RECIPE].

    Runs whose recipe has [data.engine] name = "remote" and this producer's address order portions of their batches
    here. A producer takes any run's recipe from the run itself; one that is given is got ready before the first order.
    Who may call is told by a token, in a file or in the environment variable QI_PRODUCER_TOKEN; where none is given,
    one is made, and it is told in which file it lies. SIGINT or SIGTERM ends it.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("recipe", nargs="?", help="a recipe or the folder of a run, to get ready for")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, help="default 8472, or none with --socket; 0 takes a free one")
        parser.add_argument("--socket", metavar="PATH", help="a unix socket to listen on, in place of a port or beside")
        parser.add_argument(
            "--token-file", metavar="FILE", help="who calls must send the token in it; none: one is made"
        )
        tls = parser.add_argument_group("mTLS: both sides show certificates")
        for name, text in (("certificate", "this producer's"), ("key", "its key"), ("authority", "who signs callers'")):
            tls.add_argument(f"--tls-{name}", metavar="PEM", help=text)
        work = parser.add_argument_group("work")
        work.add_argument("--processes", type=int, default=2, metavar="N", help="that make samples (%(default)s)")
        work.add_argument("--device", default="", help="where they encode: cpu, cuda:1 ... (default: as the recipe)")
        work.add_argument("--deadline", type=float, default=120.0, metavar="S", help="for a portion (%(default)s)")
        work.add_argument("--memory", type=int, default=0, metavar="BYTES", help="a process may have (0: no limit)")
        work.add_argument(
            "--folder", metavar="DIR", help="for lists and samples that filters keep (default: none kept)"
        )
        work.add_argument("--shards", metavar="DIR", help="a cache's folder whose shards are served too")
        work.add_argument("--while-read", action="store_true", help="end when standard input does")

    def run(self, args: Namespace) -> int:
        import asyncio
        import os
        import secrets
        from tempfile import TemporaryDirectory

        from qi_core.calls import clean_token, read_token
        from qi_core.plane import wire
        from qi_core.plane.server import Door

        for name in ("processes", "deadline"):
            if getattr(args, name) <= 0:
                raise QiError(f"--{name} {getattr(args, name):g}: more than 0 was wanted")
        if args.memory < 0:
            raise QiError(f"--memory {args.memory}: 0 (no limit) or more was wanted")
        token = ""
        if args.token_file:
            token = read_token(Path(args.token_file))
        elif TOKEN_ENV in os.environ:
            token = clean_token(os.environ[TOKEN_ENV], TOKEN_ENV)
        given = [getattr(args, f"tls_{name}") for name in ("certificate", "key", "authority")]
        if any(given) and not all(given):
            raise QiError("of --tls-certificate, --tls-key and --tls-authority some are missing; give all or none")
        port = 8472 if args.port is None and not args.socket else args.port
        with TemporaryDirectory(prefix="qi-produce-") as temporary:
            told = "token" if token else "certificates" if all(given) else "this user only"
            if port is not None and not token and not all(given):
                token, place = secrets.token_hex(32), Path(temporary) / "token"
                place.write_text(token, encoding="ascii")  # in a folder that is this user's alone
                told = f"token in {place}"
            door = Door(
                socket=Path(args.socket) if args.socket else None,
                host=args.host,
                port=port,
                token=token,
                tls=wire.Tls(certificate=Path(given[0]), key=Path(given[1]), authority=Path(given[2]))
                if all(given)
                else None,
            )
            asyncio.run(_serve(args, door, Path(args.folder or temporary), told))
        return 0


async def _serve(args: Namespace, door: object, folder: Path, told: str) -> None:
    import os
    import sys

    from qi_core.plane.orders import Caps, Orders, Specs
    from qi_core.plane.process import Care
    from qi_core.plane.server import Door, serve, until_stopped
    from qi_core.plane.workers import Workers
    from qi_registry import producing

    assert isinstance(door, Door)
    stop = until_stopped()
    if args.while_read:
        _stop_with_input(stop)
    argv = [sys.executable, "-m", "qi_registry.producing", str(folder.resolve()), args.device]
    care = Care(workers=args.processes, deadline=args.deadline, memory=args.memory)
    workers = Workers(argv, care, {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")})
    specs = Specs(producing.accept)
    try:
        if args.recipe:
            definition = producing.definition(args.recipe, tuple(args.set))
            workers.ready(specs.add(definition), definition.encode())

        def ready(addresses: list[str]) -> None:
            print(f"{' '.join(addresses)} ({told})", flush=True)

        orders = Orders(workers, Caps())
        await serve(orders, specs, door, stop=stop, shards=Path(args.shards) if args.shards else None, ready=ready)
    finally:
        workers.close()


def _stop_with_input(stop: asyncio.Event) -> None:
    """When whoever started this process is gone."""
    import asyncio
    import sys
    import threading

    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, daemon=True).start()
