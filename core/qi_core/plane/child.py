"""A worker: a process that carries out orders, one at a time, for the pool in ``workers`` that started it.

It is started by its own command line and not forked: a fork of a process with threads, torch's among them, may hang,
and one with a CUDA context is broken. What it costs is the import of torch, once a start.

Over the socket in QI_WORKER go frames: four bytes with a length, then JSON. A portion's bytes don't go over it: they
are written into a file without a name, whose descriptor is handed over.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import msgspec
from attrs import evolve
from msgspec import Struct

from qi_core.errors import QiError
from qi_core.place import Closing
from qi_core.plane import wire
from qi_core.plane.body import Spool
from qi_core.portions import Avoided, Order, Portion

Make: TypeAlias = Callable[[Order], Portion]
"""Carries out orders of one spec. Raises QiError where one can't be. One that is ``Closing`` is closed when its spec is
an old one; at the end ``farewell`` is called alone."""
Build: TypeAlias = Callable[[bytes], Make]
"""From a spec's definition. Raises QiError where this machine can't."""
Try: TypeAlias = Callable[[Order, Sequence[int], Callable[[int, str], None]], None]
"""Makes the samples at some places of an order one by one, gives none, and tells place and key before each."""

CHANNEL = "QI_WORKER"
"""The environment variable with the descriptor of a worker's socket."""
SPECS = 2
"""Whose makers a worker keeps: around a live change, orders of the old and the new one are mixed."""


FAREWELL = 10.0
"""Seconds in which a worker must have put away what it holds, once it is to end."""


class Task(Struct, frozen=True):
    """To a worker."""

    spec: str
    definition: str = ""
    """Given with the first task of a spec."""
    order: str = ""
    """``wire.Asked`` as JSON; none: get ready for the spec."""
    avoid: str = "[]"
    """Of the order: ``listed``."""
    singly: tuple[int, ...] = ()
    """Only try the order's samples at these places, one by one."""
    deadline: float = 0.0
    """Seconds; by twice that the worker ends itself, should nobody be left to do it."""
    each: float = 0.0
    """The same, for each sample that is tried."""
    free: tuple[int, ...] = ()
    """Files that are no longer read."""


class Reply(Struct, frozen=True):
    """From a worker."""

    kind: Literal["ready", "built", "done", "refused", "memory", "trying", "tried"]
    """Started; ready for the spec; made; can't be, and why; no memory was left. Singly: the next one; all."""
    text: str = ""
    """Why; or the key of the next one, as ASCII JSON."""
    number: int = 0
    """Of its file; or the place of the next one."""
    size: int = 0
    sum: int = 0
    gone: tuple[int, ...] = ()
    """Files that it has closed."""


def listed(avoid: Sequence[Avoided]) -> str:
    """As ASCII JSON: a key may come of a file's name that is no text, and then can't be UTF-8."""
    return json.dumps([(each.key, each.reason, each.detail) for each in avoid])


def send(channel: socket.socket, message: Struct, fd: int | None = None) -> None:
    text = msgspec.json.encode(message)
    frame = len(text).to_bytes(4, "big") + text
    if fd is None:
        channel.sendall(frame)
    else:  # the descriptor goes with the first byte
        sent = socket.send_fds(channel, [frame], [fd])
        channel.sendall(frame[sent:])


def receive(channel: socket.socket) -> tuple[bytes, int | None]:
    """A frame, and the descriptor that came with it. Raises EOFError where the other side is gone."""
    head, fds, _, _ = socket.recv_fds(channel, 4, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    head += _exactly(channel, 4 - len(head)) if head else b""
    if not head:
        raise EOFError
    return _exactly(channel, int.from_bytes(head, "big")), fds[0] if fds else None


def _exactly(channel: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        some = channel.recv(size - len(found))
        if not some:
            raise EOFError
        found += some
    return bytes(found)


def work(
    build: Build,
    farewell: Callable[[], None] = lambda: None,
    trial: Callable[[bytes], Try] | None = None,
) -> None:
    """The main function of a worker's program: carry out orders until the pool hangs up. ``farewell`` is called then,
    from another thread, and has ``FAREWELL`` seconds. ``trial`` builds what tries samples, from a spec's definition."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the pool ends its workers
    channel = socket.socket(fileno=int(os.environ.pop(CHANNEL)))
    channel.set_inheritable(False)
    faulthandler.enable()  # a decoder that crashes is told by name
    ending = threading.Thread(target=_end_with, args=(channel, farewell), daemon=True)
    ending.start()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # where the machine runs out of memory, a worker goes and not the trainer
    spool, makers = Spool(), OrderedDict[str, Make]()

    def limit(seconds: float) -> None:
        # No handler: the system itself ends a process that hangs with the interpreter locked.
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def tried(task: Task) -> Reply:
        if trial is None:
            raise QiError("samples can't be tried here")

        def tell(place: int, key: str) -> None:
            limit(2 * task.each)
            send(channel, Reply(kind="trying", number=place, text=json.dumps(key)))

        trial(task.definition.encode())(_ordered(task), task.singly, tell)
        return Reply(kind="tried")

    def carried_out(task: Task) -> tuple[Reply, int | None]:
        if task.singly:
            return tried(task), None
        if task.spec not in makers:
            makers[task.spec] = build(task.definition.encode())
        makers.move_to_end(task.spec)
        while len(makers) > SPECS:
            _, old = makers.popitem(last=False)
            if isinstance(old, Closing):
                old.close()
        if not task.order:
            return Reply(kind="built"), None
        portion = makers[task.spec](_ordered(task))
        from qi_core import packing  # torch: who only tries samples may do without

        made = spool.write(packing.body(packing.pack(portion)))
        return Reply(kind="done", number=made.number, size=made.size, sum=made.sum, gone=spool.gone()), made.fd

    with suppress(EOFError, ConnectionError):
        send(channel, Reply(kind="ready"))
        while True:
            task = msgspec.json.decode(receive(channel)[0], type=Task)
            for number in task.free:
                spool.free(number)
            limit(2 * task.deadline)
            try:
                reply, fd = carried_out(task)
            except QiError as error:
                reply, fd = _refused(str(error)), None
            except MemoryError:
                traceback.print_exc()
                reply, fd = Reply(kind="memory"), None
            except Exception as error:
                traceback.print_exc()
                reply, fd = _refused(f"the producer failed ({type(error).__name__}: {error})"), None
            limit(0)
            send(channel, reply, fd)
            if reply.kind == "memory":
                return  # what is left of it is not to be trusted
    sys.stdout.flush()
    ending.join(FAREWELL)


def _refused(why: str) -> Reply:
    """It may tell a file's name that is no text."""
    return Reply(kind="refused", text=why.encode("utf-8", "backslashreplace").decode())


def _ordered(task: Task) -> Order:
    """The order of a task."""
    avoid = (Avoided(key=key, reason=reason, detail=detail) for key, reason, detail in json.loads(task.avoid))
    return evolve(wire.order_of(task.order.encode()), avoid=tuple(avoid))


def _end_with(channel: socket.socket, farewell: Callable[[], None]) -> None:
    """End the process when the pool is gone, in the middle of whatever it does."""
    poll = select.poll()
    poll.register(channel, getattr(select, "POLLRDHUP", 0))  # POLLHUP is always told
    poll.poll()
    late = threading.Timer(FAREWELL, os._exit, (1,))
    late.daemon = True
    late.start()
    try:
        farewell()
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)
