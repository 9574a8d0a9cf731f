"""What shards behind HTTP cost: requests, bytes, and time of an epoch, with and without reading ahead.

    python benchmarks/http_shards.py [--shards 8] [--samples 1000] [--delay 0.01] [--json FILE]

Pictures of about 30 kB; the server is a process of its own on this machine and waits ``delay`` seconds before it
answers, as one in the same region would. Both sides are run in turn, each in a process of its own with an empty cache
of indexes: an epoch in batches of 64 with four threads, then another one, for which the indexes are known.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from common import table, write

SERVE = """
import asyncio, os, sys
from aiohttp import web
asked = [0, 0]
async def answer(request):
    await asyncio.sleep(float(sys.argv[2]))
    first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
    path = f"{sys.argv[1]}/{request.match_info['name']}"
    asked[0] += 1
    asked[1] += min(last + 1, os.path.getsize(path)) - first if os.path.exists(path) else 0
    return web.FileResponse(path)
async def counted(request):
    told, asked[:] = list(asked), [0, 0]
    return web.json_response(told)
async def main():
    app = web.Application()
    app.add_routes([web.get("/counted", counted), web.get("/{name}", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
DRAW = """
import json, sys, tempfile, time, urllib.request
from pathlib import Path
import torch
from qi_core.place import Place
from qi_plugins.source_webdataset.component import WebDataset
url, shards, samples, ahead = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with tempfile.TemporaryDirectory() as run:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=Path(run))
    names = f"{url}/{{000..{shards - 1:03}}}.tar"
    live = WebDataset(shards=(names,), side=64, window=4, cache=run, ahead_mib=ahead).build(place, 16)
    found = []
    for epoch in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        live.draw(64)
        first = time.perf_counter() - wall
        for at in range(64, shards * samples, 64):
            live.draw(min(64, shards * samples - at))
        told = json.load(urllib.request.urlopen(f"{url}/counted"))
        found.append([first, time.perf_counter() - wall, time.process_time() - cpu, *told])
    live.close()
    print(json.dumps(found))
"""


def fill(folder: Path, shards: int, samples: int) -> int:
    """Bytes in all."""
    import numpy as np
    from PIL import Image

    pictures: list[bytes] = []
    for seed in range(20):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (100, 100, 3), np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as tar:
            for n in range(samples):
                for suffix, content in (("png", pictures[n % 20]), ("txt", b"noise")):
                    info = tarfile.TarInfo(f"{n}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=0.01)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        size = fill(Path(folder), asked.shards, asked.samples)
        server = subprocess.Popen([sys.executable, "-c", SERVE, folder, str(asked.delay)], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            for name, ahead in (("a request a sample", 0), ("64 MiB ahead", 64), ("512 MiB ahead", 512)):
                words = [sys.executable, "-c", DRAW, url, str(asked.shards), str(asked.samples), str(ahead)]
                rows[name] = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
        finally:
            server.kill()
            server.wait()
    table(
        f"{asked.shards} shards of {asked.samples} pictures, {size / 1e6:.0f} MB; {1000 * asked.delay:g} ms an answer",
        ("side", "epoch", "requests", "MB", "first batch, s", "epoch, s", "CPU, s"),
        [
            (name, str(epoch), f"{requests}", f"{bytes_ / 1e6:.0f}", f"{first:.2f}", f"{wall:.1f}", f"{cpu:.1f}")
            for name, epochs in rows.items()
            for epoch, (first, wall, cpu, requests, bytes_) in enumerate(epochs, 1)
        ],
    )
    write(asked.json, rows)


if __name__ == "__main__":
    main()
