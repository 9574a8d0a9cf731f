"""qi data annotate"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qi_core.errors import QiError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from qi_core.annotation.annotator import Asking, Progress
    from qi_core.annotation.journal import Journal
    from qi_core.annotation.pictures import Stored
    from qi_core.entries import Entry

KEY_ENV = "QI_ANNOTATE_KEY"


class Annotate:
    """Caption pictures by a vision-language model: qi data annotate RECIPE|FOLDER --endpoint URL --model NAME.

    Writes a JSONL that the source "images" reads: image, caption, raw (the caption that was there), type, style,
    watermarks, abnormal. Each answer is checked by rules, and asked for again with the reason where it won't do. What
    cannot be annotated is listed in a .failed.jsonl beside it. It may be stopped or killed at any moment: the same
    command goes on and asks for nothing twice. An API key is taken from the environment variable QI_ANNOTATE_KEY, or
    from where --key-env or --key-file says.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("data", metavar="RECIPE|FOLDER", help="a recipe's pictures, or a folder, .jsonl or pattern")
        parser.add_argument(
            "--endpoint", required=True, metavar="URL", help="an OpenAI-compatible server: http://HOST/v1"
        )
        parser.add_argument("--model", required=True, metavar="NAME", help="as the server calls it")
        parser.add_argument("-o", "--output", default="annotations.jsonl", metavar="FILE", help="default: %(default)s")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe"
        )
        what = parser.add_argument_group("what is asked")
        what.add_argument("--language", choices=("en", "zh"), default="en", help="of captions (default: %(default)s)")
        what.add_argument("--prompt", metavar="FILE", help="your own question; it must ask for the same JSON keys")
        what.add_argument(
            "--fuse", action="store_true", help="ask once more with the caption that is there: key 'fused'"
        )
        what.add_argument(
            "--side", type=int, default=1024, help="pictures are shown at this area at most (%(default)s)"
        )
        what.add_argument("--shortest", type=int, default=8, metavar="WORDS", help="of a caption (%(default)s)")
        what.add_argument("--longest", type=int, default=500, metavar="WORDS", help="of a caption (%(default)s)")
        what.add_argument("--asks", type=int, default=3, metavar="N", help="answers a picture, at most (%(default)s)")
        what.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="of an answer (%(default)s)")
        what.add_argument("--again", action="store_true", help="ask again for what failed before")
        what.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N pictures, to try it")
        how = parser.add_argument_group("how the server is treated")
        how.add_argument("--in-flight", type=int, default=8, metavar="N", help="pictures at once (%(default)s)")
        how.add_argument("--requests-per-minute", type=float, default=0.0, metavar="N", help="at most")
        how.add_argument(
            "--tokens-per-minute", type=float, default=0.0, metavar="N", help="at most, both ways together"
        )
        how.add_argument("--timeout", type=float, default=120.0, metavar="S", help="for one answer (%(default)s)")
        how.add_argument("--retries", type=int, default=6, metavar="N", help="after a failure (%(default)s)")
        how.add_argument("--key-env", default="", metavar="NAME", help="the environment variable with the API key")
        how.add_argument("--key-file", default="", metavar="FILE", help="or the file with it")
        how.add_argument(
            "--price",
            type=float,
            nargs=2,
            default=(0.0, 0.0),
            metavar=("IN", "OUT"),
            help="of a million tokens, to tell",
        )

    def run(self, args: Namespace) -> int:
        from collections import Counter

        from qi_core import chat
        from qi_core.annotation.annotator import annotate
        from qi_core.annotation.journal import Journal

        asking = asked(args)
        skipped: Counter[str] = Counter()
        entries = pictures(args.data, args.set, skipped)
        if args.limit:
            entries = entries[: args.limit]
        chat.require_model(asking.endpoint, asking.model, "qi data annotate", "--model")
        journal = Journal(Path(args.output), model=asking.model, prompt=asking.name, anew=args.again)
        screen = Screen(args.price)
        try:
            progress = annotate(entries, journal, asking, screen.show)
        except KeyboardInterrupt:
            screen.end()
            print(f"stopped; {args.output} keeps what was annotated, and the same command goes on")
            raise
        finally:
            screen.end()
            journal.close()
        print(summary(progress, journal, skipped, args.price))
        return int(progress.left > 0 or progress.kept + journal.before == 0)


def asked(args: Namespace) -> Asking:
    """What the arguments come to. Raises QiError."""
    import os

    from qi_core.annotation.annotator import Asking
    from qi_core.annotation.pictures import Show
    from qi_core.annotation.prompts import shipped
    from qi_core.annotation.rules import Rules
    from qi_core.calls import Endpoint

    key_env = args.key_env or (KEY_ENV if KEY_ENV in os.environ and not args.key_file else "")
    if args.side < 64 or args.limit < 0 or min(args.requests_per_minute, args.tokens_per_minute, *args.price) < 0:
        raise QiError("--side must be 64 at least, --limit, rates and prices not negative; correct them")
    try:
        endpoint = Endpoint(
            url=args.endpoint,
            token_env=key_env,
            token_file=args.key_file,
            timeout=args.timeout,
            retries=args.retries,
            in_flight=args.in_flight,
        )
        endpoint.headers()
        return Asking(
            endpoint=endpoint,
            model=args.model,
            prompts=shipped(args.language, Path(args.prompt) if args.prompt else None),
            rules=Rules(language=args.language, shortest=args.shortest, longest=args.longest),
            show=Show(side=args.side),
            asks=args.asks,
            requests=args.requests_per_minute,
            tokens=args.tokens_per_minute,
            max_tokens=args.max_tokens,
            fuse=args.fuse,
        )
    except ValueError as error:
        raise QiError(f"qi data annotate: {error}") from error


def pictures(data: str, sets: list[str], skipped: Counter[str]) -> list[Entry]:
    """Those of a folder, a JSONL, a pattern, or of the sources of a recipe. Raises QiError."""
    from qi_registry import reader, runs
    from qi_registry.kinds import KINDS
    from qi_registry.registry import installed

    place = Path(data)
    if runs.is_run(place):
        found = list(_stored(runs.read_run(place, tuple(sets)).source))
    elif place.is_dir() or place.suffix in (".jsonl", ".ndjson", ".tar") or any(sign in data for sign in "*?["):
        if sets:
            raise QiError(f"--set: changes a recipe, and {data} is none; leave it out")
        images = installed().find(KINDS["source"], "images").component
        found = list(_stored(images(path=data)))
    else:
        found = list(_stored(reader.read(data, sets).source))
    if not found:
        raise QiError(f"{data}: no source of it has pictures in files; wanted one such as 'images', or a folder")

    def skip(key: str, reason: str, detail: str = "") -> None:
        skipped[reason] += 1

    entries = [entry for source in found for entry in source.stored(skip)]
    if member := next((entry for entry in entries if entry.image.size >= 0), None):
        raise QiError(
            f"{member.image.path}: members of a tar have no path to write down; unpack it, or annotate before"
        )
    return entries


def _stored(part: Any) -> Iterator[Stored]:
    """Whatever in a component's settings has pictures in files."""
    import attrs

    from qi_core.annotation.pictures import Stored

    if isinstance(part, tuple | list):
        for each in part:
            yield from _stored(each)
    elif isinstance(part, Stored):
        yield part
    elif attrs.has(type(part)):
        for field in attrs.fields(type(part)):
            yield from _stored(getattr(part, field.name))


class Screen:
    """Progress on stderr: one line that changes on a terminal, a line now and then elsewhere."""

    SELDOM = 30.0

    def __init__(self, price: tuple[float, float]) -> None:
        import sys

        self._price, self._file = price, sys.stderr
        self._open, self._last = False, 0.0

    def show(self, progress: Progress) -> None:
        from time import monotonic

        if self._file.isatty():
            print(f"\r\x1b[K{line(progress, self._price)}", end="", file=self._file, flush=True)
            self._open = True
        elif monotonic() - self._last >= self.SELDOM or not progress.rest:
            self._last = monotonic()
            print(line(progress, self._price), file=self._file, flush=True)

    def end(self) -> None:
        if self._open:
            print(file=self._file)
        self._open = False


def line(progress: Progress, price: tuple[float, float]) -> str:
    """How far it is, how fast, and what it has cost."""
    done = progress.total - progress.rest
    told = [f"{done} of {progress.total}"]
    if progress.rate and progress.rest:
        told.append(f"{progress.rate:.2g}/s, {_span(progress.rest / progress.rate)} to go")
    for count, what in ((progress.failed, "failed"), (progress.left, "without an answer")):
        if count:
            told.append(f"{count} {what}")
    if again := progress.refused.total():
        told.append(f"{again} answers would not do")
    return "; ".join([*told, _cost(progress, price)])


def summary(progress: Progress, journal: Journal, skipped: Counter[str], price: tuple[float, float]) -> str:
    """What came of it, with every reason."""
    told = [
        f"{journal.path}: {journal.before + progress.kept} annotations ({progress.kept} new); {_cost(progress, price)}"
    ]
    for title, counts in (
        (f"not annotated, each in {journal.failures}", journal.refused),
        ("answers that would not do", progress.refused),
        ("not looked at", skipped),
    ):
        if counts:
            told.append(f"{title}:")
            told += [f"  {count:>7}  {reason}" for reason, count in counts.most_common()]
    if progress.unfused:
        told.append(f"{progress.unfused} annotations lack a fused caption")
    if progress.left:
        told.append(f"{progress.left} pictures got no answer; the same command asks again")
    return "\n".join(told)


def _cost(progress: Progress, price: tuple[float, float]) -> str:
    told = f"{progress.asked} + {progress.said} tokens"
    if not any(price):
        return told
    spent = (progress.asked * price[0] + progress.said * price[1]) / 1e6
    done = progress.kept + progress.failed
    ahead = f", about {spent / done * (done + progress.rest):.2f} in all" if done and progress.rest else ""
    return f"{told}, {spent:.2f} spent{ahead}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
