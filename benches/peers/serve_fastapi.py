"""Compares `similiai serve` with FastAPI and PyTorch with the same weights: start, latency, throughput, memory.

Usage: python3 benches/peers/serve_fastapi.py      (after `similiai run all`; needs `wrk`: apt-get install wrk)
"""

import turns

turns.in_environment("serve", ["torch", "numpy", "safetensors", "fastapi", "uvicorn", "pillow", "pyarrow"])

import http.client
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

PROGRAM = turns.ROOT / "target" / "release" / "similiai"
TURNS, ASKED, CLIENTS, SECONDS = 5, 100, 64, 4
HERE = Path(__file__).parent


class Server:
    def __init__(self, name, command, threads=None):
        self.name, start = name, time.perf_counter()
        environment = os.environ | ({"THREADS": str(threads), "OMP_NUM_THREADS": str(threads)} if threads else {})
        pipe = subprocess.PIPE if threads is None else subprocess.DEVNULL
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=pipe, cwd=turns.ROOT if threads is None else HERE,
            env=environment, text=True, start_new_session=True,
        )
        self.port = int(command[-1]) if threads else int(self.process.stdout.readline().strip(" /\n").rsplit(":")[-1])
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.first = self.ask(PICTURES["PNG of 64 × 64"])
                break
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"{name} has ended: {command}")
                time.sleep(0.005)
        self.start = time.perf_counter() - start

    def ask(self, picture):
        self.connection.request("POST", "/api/search?k=5", picture, {"content-type": "application/octet-stream"})
        response = self.connection.getresponse()
        text = response.read()
        assert response.status == 200, (self.name, response.status, text)
        return json.loads(text)["results"]

    def latency(self, picture):
        """Returns the median latency in milliseconds."""
        def once():
            start = time.perf_counter()
            self.ask(picture)
            return 1e3 * (time.perf_counter() - start)

        # Servers close connections that were idle during the turns of the others.
        self.connection.close()
        return statistics.median(once() for _ in range(ASKED))

    def throughput(self, script):
        """Returns answers a second."""
        command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{SECONDS}s", "--timeout", "30s", "-s", script]
        said = subprocess.run(
            [*command, f"http://127.0.0.1:{self.port}/api/search?k=5"], check=True, capture_output=True, text=True
        ).stdout
        assert "Non-2xx" not in said and "Socket errors" not in said, (self.name, said)
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])

    def memory(self):
        """Returns the peak memory of all its processes so far, in megabytes."""
        group = os.getpgid(self.process.pid)
        total = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(folder.name)) == group:
                    total += int(re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())[1])
            except (OSError, TypeError):
                pass
        return total / 1000

    def stop(self):
        os.killpg(os.getpgid(self.process.pid), signal.SIGTERM)
        self.process.wait()


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()


def main():
    servers = []
    try:
        servers.append(Server("ours", [PROGRAM, "--quiet", "serve", "--port", 0]))
        for workers, threads in [(1, 2), (2, 1)]:
            command = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--workers", workers, "serve_app:app"]
            name = f"FastAPI, {workers} × {threads} threads"
            servers.append(Server(name, [*command, "--port", 18500 + workers], threads))
        compare(servers)
    finally:
        for server in servers:
            server.stop()


def compare(servers):
    ours, *peers = servers
    for peer in peers:
        ours.connection.close()
        peer.connection.close()
        ids = [[found["id"] for found in server.ask(PICTURES["PNG of 64 × 64"])] for server in (ours, peer)]
        print(f"{peer.name}: {len(set(ids[0]) & set(ids[1]))} of 5 neighbours as ours")
    for server in servers:
        print(f"{server.name:24} start to first answer {server.start:6.2f} s")
    for name, picture in PICTURES.items():
        medians = in_turns(servers, f"one client, {name}, ms", lambda server: server.latency(picture))
        report(f"latency of one client, {name}", medians, min, lambda ours, peer: peer / ours)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, picture) in enumerate(PICTURES.items()):
            body, script = Path(folder) / f"{number}", Path(folder) / f"{number}.lua"
            body.write_bytes(picture)
            script.write_text(
                f'local f = io.open("{body}", "rb")\nwrk.method, wrk.body = "POST", f:read("*a")\n'
                'wrk.headers["content-type"] = "application/octet-stream"\n'
            )
            medians = in_turns(servers, f"{CLIENTS} clients, {name}, answers/s", lambda server: server.throughput(script))
            report(f"answers a second, {CLIENTS} clients, {name}", medians, max, lambda ours, peer: ours / peer)
    for server in servers:
        print(f"{server.name:24} most memory {server.memory():6.0f} MB")


def in_turns(servers, what, measure):
    found = {server.name: [] for server in servers}
    for _ in range(TURNS):
        for server in servers:
            found[server.name].append(measure(server))
    for name, figures in found.items():
        print(f"{what}: {name:24} {statistics.median(figures):8.2f}  ({min(figures):.2f} to {max(figures):.2f})")
    return {name: statistics.median(figures) for name, figures in found.items()}


def report(what, medians, best, ratio):
    ours = medians.pop("ours")
    peer = best(medians.values())
    print(json.dumps({"what": what, "ours": round(ours, 2), "peer": round(peer, 2), "ratio": round(ratio(ours, peer), 2)}), flush=True)


SMALL = Image.open(turns.ROOT / "artifacts" / "prepare" / "cat" / "00007.png").convert("RGB")
PICTURES = {
    "PNG of 64 × 64": encoded(SMALL, "PNG"),
    "JPEG of 1024 × 768": encoded(SMALL.resize((1024, 768), Image.BICUBIC), "JPEG"),
}
if __name__ == "__main__":
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    main()
