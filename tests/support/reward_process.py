"""A process that serves a reward, well and in every way badly: ``python reward_process.py PORT LOG``.

Below ``/good`` it does as it should; below the other names of FAULTS it breaks in one way. Each candidate that is
judged is a line in LOG.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from aiohttp import web
from attrs import frozen
from msgspec.structs import replace

from qi_core import Candidate, Scores
from qi_core import reward_wire as wire
from qi_core.reward_server import Judge, Served, application

FAULTS = ("good", "flaky", "slow", "nan", "count", "another", "schema", "oversize", "garbage")
_calls = count(1)


@frozen
class Brightness:
    """The mean of a picture's pixels, 0 to 1."""

    log: Path
    nan: bool = False
    pause: float = 0.0

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        with self.log.open("a") as file:
            file.writelines(f"{candidate.key}\n" for candidate in candidates)
        await asyncio.sleep(self.pause)
        values = [float(candidate.image.float().mean() / 255) for candidate in candidates]
        if self.nan:
            values[0] = float("nan")
        return Scores(values=tuple(values), parts={"brightness": tuple(values)})

    async def close(self) -> None: ...


@web.middleware
async def fault(request: web.Request, handler: object) -> web.StreamResponse:
    """Breaks what its path asks for."""
    response = await handler(request)  # type: ignore[operator]
    mode = request.path.split("/")[1]
    if not request.path.endswith("/v1/score") or mode in ("good", "slow", "nan"):
        return response
    if mode == "flaky":  # of twenty calls one fails, one is cut off after it was judged, one is never answered
        turn = next(_calls) % 20
        if turn == 3:
            return web.Response(status=500)
        if turn == 9:
            request.transport.abort()
        if turn == 15:
            await asyncio.sleep(60)
        return response
    answer = wire.decode(response.body, wire.MSGPACK, wire.Answer)
    body = {
        "count": wire.encode(replace(answer, values=answer.values[1:]), wire.MSGPACK),
        "another": wire.encode(replace(answer, id="another"), wire.MSGPACK),
        "schema": wire.encode(replace(answer, schema=wire.SCHEMA + 1), wire.MSGPACK),
        "oversize": bytes(17 * 2**20),
        "garbage": b"\x80\x04K\x01.",  # the number one, pickled
    }[mode]
    return web.Response(body=body, content_type=wire.MSGPACK)


def main(port: int, log: Path) -> None:
    app = web.Application(client_max_size=2**20, middlewares=[fault])
    for mode in FAULTS:
        reward = Brightness(log, nan=mode == "nan", pause=1.5 if mode == "slow" else 0.0)
        judge = Judge({"brightness": Served(reward=reward, groupwise=False)})
        app.add_subapp(f"/{mode}", application(judge, limits=wire.Limits(body=2**20, pixels=10_000)))
    web.run_app(app, host="127.0.0.1", port=port, print=None, handler_cancellation=True, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
