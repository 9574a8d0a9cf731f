"""What it costs to bring a batch from a producer's process into the trainer's buffer, beside other ways of doing it.

    python benchmarks/plane.py [--rounds 5] [--batches 12] [--steps 30] [--json FILE]

A batch is what a step at 256 px takes: 32 samples, latents and 200 text tokens of width 3584 in bfloat16, 47 MB. Told
are CPU-seconds of both processes together per GB, the medians of rounds in which every way has its turn; wall time
says little on a machine with neighbours.

* raw TCP: ``sendall`` from memory, ``recv_into`` a buffer that is used again. Nothing checks what arrives. The limit.
* staged: the portion lies ready at the producer. With the checksum, the checks of the header, and tensors at the end.
* made: the producer also makes the portion (a copy of one in new memory), packs it and writes it down.
* DataLoader: one worker of torch's makes it the same way; and the copy into the trainer's buffer.
* Ray: so does an actor, as numpy arrays that go through its object store (where Ray is installed). Ray Data: so does a
  stage of a data set, whose ``streaming_split`` gives batches; all of Ray's processes count (where ``ray[data]`` is).

What making costs alone is told too, to be taken off. Copies are counted by what a process's own memory grows beyond
its rest while batches pass, in batches, less the one that is made: whoever holds one once more in between shows it.
Stall is what a trainer waits of a step of 0.31 s, four batches ordered ahead.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from common import table, write

from qi_core import Condition, Examples, Latents
from qi_core.plane import server, wire
from qi_core.plane.client import Care, Puller
from qi_core.plane.orders import Caps, Orders, Specs
from qi_core.plane.producer import Call
from qi_core.plane.ring import Ring
from qi_core.plane.server import Door
from qi_core.plane.workers import Threads
from qi_core.portions import Order, Portion

SAMPLES, TOKENS, WIDTH, STEP, AHEAD = 32, 200, 3584, 0.31, 4
AIM, AIM_COPIES, AIM_STALL = 1.4, 0.25, 0.5
"""Times raw TCP; batches; per cent."""
TICKS = os.sysconf("SC_CLK_TCK")


def batch() -> Examples:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(SAMPLES * 16 * 16, 64, generator=generator).bfloat16()
    text = torch.randn(SAMPLES * TOKENS, WIDTH, generator=generator).bfloat16()
    return Examples(
        latents=Latents(tokens=latents, grids=((1, 16, 16),) * SAMPLES),
        condition=Condition(text=text, lengths=(TOKENS,) * SAMPLES),
        slots=tuple(range(SAMPLES)),
        keys=tuple(f"sample-{i}" for i in range(SAMPLES)),
    )


def ordered(number: int) -> Order:
    tickets = tuple((number, i) for i in range(SAMPLES))
    return Order(spec="bench", step=number, number=0, tickets=tickets, slots=tuple(range(SAMPLES)))


SIZE = sum(each.nbytes for each in (batch().latents.tokens, batch().condition.text))


# The other process.


def fresh(made: Examples) -> Examples:
    """In memory of its own, as what is really made is."""
    latents, condition = made.latents, made.condition
    return evolve(
        made,
        latents=latents.with_tokens(latents.tokens.clone()),
        condition=evolve(condition, text=condition.text.clone()),
    )


def produce(folder: str, kept: str, tls: str) -> None:
    made = batch()
    specs = Specs(lambda text: text)
    specs.add("bench")

    async def run() -> None:
        makes = Threads(lambda _: lambda order: Portion(batch=fresh(made)))
        makes.ready("bench", b"bench")
        certificates = _certificates(Path(folder), "producer") if tls == "tls" else None
        door = Door(socket=Path(folder) / f"{os.getpid()}.sock", port=0, tls=certificates)
        orders = Orders(makes, Caps(kept=int(kept)))
        await server.serve(orders, specs, door, stop=server.until_stopped(), ready=server.told)

    asyncio.run(run())


def raw(*_: str) -> None:
    content = bytes(SIZE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        while connection.recv(1):
            connection.sendall(content)


@contextmanager
def other(role: str, *rest: str) -> Generator[tuple[int, list[str]]]:
    """Its process's number, and what it says first."""
    process = subprocess.Popen([sys.executable, __file__, "--role", role, *rest], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.pid, process.stdout.readline().split()
    finally:
        process.kill()
        process.communicate()


# The ways.

Way = Callable[[int], None]
"""Brings so many batches."""


def pulling(address: str, anew: bool, call: Call | None = None) -> tuple[Way, Puller]:
    """``anew``: each order is one that was never made before."""
    puller = Puller([address], call=call, care=Care(window=2), ring=Ring(4, pinned=False))
    numbers: Iterator[int] = iter(range(1 << 62))

    def bring(count: int) -> None:
        ahead = deque(puller.order(ordered(next(numbers) if anew else i % 2)) for i in range(2))
        for left in reversed(range(count)):
            portion = ahead.popleft().result(60)
            assert len(portion.batch) == SAMPLES
            del portion
            if left >= 2:
                ahead.append(puller.order(ordered(next(numbers) if anew else left % 2)))

    return bring, puller


def raw_way(port: int) -> Way:
    connection = socket.create_connection(("127.0.0.1", port))
    buffer = memoryview(bytearray(SIZE))

    def bring(count: int) -> None:
        for _ in range(count):
            connection.sendall(b"x")
            at = 0
            while at < SIZE:
                at += connection.recv_into(buffer[at:])

    return bring


class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        made = batch()
        while True:
            new = fresh(made)
            yield new.latents.tokens, new.condition.text


def loader_way() -> tuple[Way, list[int]]:
    loader = iter(torch.utils.data.DataLoader(Endless(), batch_size=None, num_workers=1))
    buffers = [torch.empty_like(each) for each in next(loader)]

    def bring(count: int) -> None:
        for _ in range(count):
            for buffer, values in zip(buffers, next(loader), strict=True):
                buffer.copy_(values)

    workers: Any = loader
    return bring, [worker.pid for worker in workers._workers]


def ray_way() -> tuple[Way, list[int]] | None:
    try:
        import ray
    except ImportError:
        return None
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)

    class Maker:
        def __init__(self) -> None:
            self._made = batch()

        def make(self) -> list[Any]:
            new = fresh(self._made)
            return [each.view(torch.uint8).numpy() for each in (new.latents.tokens, new.condition.text)]

        def pid(self) -> int:
            return os.getpid()

    # Ray looks for this file's classes by name in a process that does not have it: they go by value.
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    maker = ray.remote(Maker).remote()
    buffers = [torch.empty_like(each) for each in (batch().latents.tokens, batch().condition.text)]

    def bring(count: int) -> None:
        for _ in range(count):
            for buffer, values in zip(buffers, ray.get(maker.make.remote()), strict=True):
                buffer.view(torch.uint8).numpy()[:] = values

    return bring, [ray.get(maker.pid.remote())]


def ray_data_cost(count: int) -> float | None:
    """CPU-seconds per GB of a data set of so many batches, from its beginning to its end: it makes some ahead, so that
    turns would say nothing. After ``ray_way``: Ray runs."""
    try:
        import pandas  # noqa: F401 - what ray[data] brings
        import pyarrow  # noqa: F401
        import ray.data
    except ImportError:
        return None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    made = [each.view(torch.int16).numpy() for each in (batch().latents.tokens, batch().condition.text)]
    rows = {name: values.reshape(SAMPLES, -1) for name, values in zip(("latents", "text"), made, strict=True)}
    buffers = {name: values.copy() for name, values in rows.items()}

    def make(_: Any) -> Any:
        return {name: values.copy() for name, values in rows.items()}

    def bring(count: int) -> None:
        data = ray.data.range(count * SAMPLES, override_num_blocks=count).map_batches(make, batch_size=SAMPLES)
        (split,) = data.streaming_split(1)
        for got in split.iter_batches(batch_size=SAMPLES, batch_format="numpy"):
            for name, buffer in buffers.items():
                buffer[:] = got[name].reshape(buffer.shape)

    bring(4)  # its processes are there
    before, processes = cpu([]), {pid: cpu([pid]) - cpu([]) for pid in of_ray()}
    bring(count)
    spent = cpu([]) - before + sum(cpu([pid]) - cpu([]) - processes.get(pid, 0.0) for pid in of_ray())
    return spent / (count * SIZE / 1e9)


def of_ray() -> list[int]:
    """Ray's workers and what serves them."""
    found: list[int] = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = each.read_bytes()
            if words.startswith(b"ray::") or b"raylet/raylet" in words.split(b"\0")[0]:
                found.append(int(each.parent.name))
    return found


# Figures.


def cpu(pids: list[int]) -> float:
    """CPU-seconds of this process and others so far."""
    spent = time.process_time()
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def growth(pid: int, way: Way, count: int) -> float:
    """By how many batches the memory of a process's own (what it maps of files without names is none) grows beyond its
    rest while some pass; looked at each millisecond."""
    status = Path(f"/proc/{pid}/status")

    def own() -> int:
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    way(count)  # buffers are there
    rest, seen, over = own(), [0], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            seen.append(own())

    looking = threading.Thread(target=look)
    looking.start()
    way(count)
    over.set()
    looking.join()
    return max(max(seen) - rest, 0) / SIZE


def stalled(puller: Puller, steps: int) -> float:
    """Per cent of the time that a trainer waits; its first batch does not count."""
    numbers = iter(range(1 << 40, 1 << 41))
    ahead = deque(puller.order(ordered(next(numbers))) for _ in range(AHEAD))
    waited, began = 0.0, 0.0
    for step in range(steps + 1):
        before = time.perf_counter()
        portion = ahead.popleft().result(60)
        if step:
            waited += time.perf_counter() - before
        else:
            began = time.perf_counter()
        ahead.append(puller.order(ordered(next(numbers))))
        time.sleep(STEP)  # a step on a GPU: this thread waits for it
        del portion
    total = time.perf_counter() - began
    for each in ahead:
        each.result(60)
    return 100 * waited / total


def _certificates(folder: Path, name: str) -> wire.Tls:
    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], check=True, capture_output=True, cwd=folder)

    curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    if not (folder / "authority.pem").exists():
        openssl(f"req -x509 {curve} -keyout authority.key -out authority.pem -subj /CN=authority")
    openssl(f"req {curve} -keyout {name}.key -out {name}.csr -subj /CN={name} -addext subjectAltName=IP:127.0.0.1")
    sign = "-CA authority.pem -CAkey authority.key -copy_extensions copy"
    openssl(f"x509 -req -in {name}.csr {sign} -out {name}.pem")
    return wire.Tls(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", authority=folder / "authority.pem")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12, help="a round and way")
    parser.add_argument("--steps", type=int, default=30, help="of the trainer that may stall")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, tuple[Way, list[int]]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def transport(name: str, anew: bool, unix: bool = False, tls: bool = False) -> tuple[Puller, int]:
            given = (folder, "0" if anew else str(1 << 30), "tls" if tls else "plain")
            call = Call(tls=_certificates(Path(folder), "trainer").client()) if tls else None
            pid, addresses = stack.enter_context(other("produce", *given))
            way, puller = pulling(addresses[0 if unix else 1], anew, call)
            stack.callback(puller.close)
            ways[name] = way, [pid]
            return puller, pid

        pid, (port,) = stack.enter_context(other("raw"))
        ways["raw TCP"] = raw_way(int(port)), [pid]
        _, staged_pid = transport("qi, staged, TCP", anew=False)
        transport("qi, staged, unix socket", anew=False, unix=True)
        if shutil.which("openssl"):
            transport("qi, staged, mTLS", anew=False, tls=True)
        made, made_pid = transport("qi, made, TCP", anew=True)
        ways["DataLoader, one worker"] = loader_way()
        original = batch()
        ways["making it, alone"] = lambda count: [fresh(original) for _ in range(count)] and None, []
        if (ray := ray_way()) is not None:
            ways["Ray, an actor"] = ray
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for round_number in range(-1, args.rounds):
            for name, (way, pids) in ways.items():
                before = cpu(pids)
                way(args.batches)
                if round_number >= 0:
                    costs[name].append((cpu(pids) - before) / (args.batches * SIZE / 1e9))
        copies = {
            "client": growth(os.getpid(), ways["qi, staged, TCP"][0], args.batches),
            "producer, staged": growth(staged_pid, ways["qi, staged, TCP"][0], args.batches),
            "producer, made": max(growth(made_pid, ways["qi, made, TCP"][0], args.batches) - 1, 0.0),
        }
        stall = stalled(made, args.steps)
    told = {name: statistics.median(each) for name, each in costs.items()}
    if "Ray, an actor" in told and (whole := ray_data_cost(5 * args.batches)) is not None:
        told["Ray Data, streaming_split, a whole set"] = whole
    limit = told["raw TCP"]
    rows = [(name, f"{cost:.2f}", f"{cost / limit:.2f}") for name, cost in told.items()]
    title = f"Batches of {SIZE / 1e6:.0f} MB from one process into another's buffer"
    table(title, ("way", "CPU-s/GB", "of raw TCP"), rows, f"aim: staged, TCP at most {AIM}")
    rows = [(f"copies, {name}", f"{count:.2f}", f"{AIM_COPIES:g}") for name, count in copies.items()]
    rows.append((f"stall, % of {args.steps} steps of {STEP} s", f"{stall:.2f}", f"{AIM_STALL:g}"))
    table("What passes by", ("figure", "measured", "at most"), rows)
    write(args.json, {"cpu_seconds_per_gb": told, "copies": copies, "stall_per_cent": stall, "batch_bytes": SIZE})


if __name__ == "__main__":
    if "--role" in sys.argv:
        {"produce": produce, "raw": raw}[sys.argv[2]](*sys.argv[3:])
    else:
        main()
