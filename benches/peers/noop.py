"""Compares a run that has nothing to do with DVC and ninja, on the same number of files.

Usage: python3 benches/peers/noop.py [FILES]      (a multiple of 2000, up to 120000; default 4000)
"""

import turns

turns.in_environment("noop", ["dvc>=3,<4", "ninja"])

import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

FILES = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
IMAGES = FILES // 2
TURNS = 9 if FILES <= 20_000 else 5
FOLDER = turns.ROOT / "target" / "peers" / f"noop-{FILES}"
OURS, DVC, NINJA = FOLDER / "ours", FOLDER / "dvc", FOLDER / "ninja"
PROGRAM = turns.ROOT / "target" / "release" / "similiai"
BESIDE = Path(sys.prefix) / "bin"
RECORDS = 10_000

MANIFEST = f"""\
version: 1
stages:
  fetch: {{uses: fetch, source: archive.tar.gz}}
  one: {{uses: prepare, needs: [fetch], images_per_class: {IMAGES // 10}, size: 8}}
  two: {{uses: prepare, needs: [fetch], images_per_class: {IMAGES // 10}, size: 8, sharpen: {{amount: 1.0}}}}
"""


def archive(path):
    """Random pictures in the official layout."""
    draw = random.Random(42)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:

        def add(name, content):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        add("batches.meta.txt", "".join(f"class{label}\n" for label in range(10)).encode())
        names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
        for start in range(0, IMAGES, RECORDS):
            places = range(start, min(start + RECORDS, IMAGES))
            add(names[start // RECORDS], b"".join(bytes([place % 10]) + draw.randbytes(3072) for place in places))


def quietly(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stdout.decode()}")
    return done.stdout.decode()


def prepare():
    shutil.rmtree(FOLDER, ignore_errors=True)
    for folder in (OURS, DVC, NINJA / "in"):
        folder.mkdir(parents=True)
    archive(OURS / "archive.tar.gz")
    (OURS / "pipeline.yaml").write_text(MANIFEST)
    quietly([PROGRAM, "run", "all"], OURS)

    quietly([BESIDE / "dvc", "init", "--no-scm"], DVC)
    quietly([BESIDE / "dvc", "config", "core.analytics", "false"], DVC)
    os.link(OURS / "archive.tar.gz", DVC / "archive.tar.gz")
    for name in ("one", "two"):
        copy = f"cp -r ../ours/artifacts/{name} {name} && chmod -R u+w {name}"
        quietly([BESIDE / "dvc", "stage", "add", "-n", name, "-d", "archive.tar.gz", "-o", name, copy], DVC)
    quietly([BESIDE / "dvc", "repro"], DVC)

    rules = ["rule copy", "  command = cp $in $out"]
    for number in range(IMAGES):
        (NINJA / "in" / str(number)).write_text(str(number))
        rules.append(f"build out/{number}: copy in/{number}")
    (NINJA / "build.ninja").write_text("\n".join(rules) + "\n")
    quietly([BESIDE / "ninja"], NINJA)


def seconds(command, folder, said):
    start = time.perf_counter()
    output = quietly(command, folder)
    taken = time.perf_counter() - start
    if said not in output:
        sys.exit(f"{command} did something:\n{output}")
    return taken


ENVIRONMENT = {**os.environ, "PATH": f"{BESIDE}:{os.environ['PATH']}"}
subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=turns.ROOT, check=True)
prepare()
SIDES = {
    "ours": lambda: seconds([PROGRAM, "run", "all"], OURS, "two    cached"),
    "dvc": lambda: seconds([BESIDE / "dvc", "repro"], DVC, "up to date"),
    "ninja": lambda: seconds([BESIDE / "ninja"], NINJA, "no work to do"),
    "verify": lambda: seconds([PROGRAM, "verify"], OURS, " 0 damaged"),
    "help": lambda: seconds([PROGRAM, "--help"], OURS, "Exit status"),
}
for side in SIDES.values():
    side()
times = {name: [] for name in SIDES}
for _ in range(TURNS):
    for name, side in SIDES.items():
        times[name].append(side())
medians = {name: statistics.median(values) for name, values in times.items()}
for name, values in times.items():
    print(f"{name:7} {medians[name] * 1000:8.1f} ms   ({min(values) * 1000:.1f} to {max(values) * 1000:.1f})")
for peer in ("dvc", "ninja"):
    ours, theirs = medians["ours"], medians[peer]
    what = f"seconds of a run with nothing to do, {FILES} files, beside {peer}"
    print(json.dumps({"what": what, "ours": round(ours, 4), "peer": round(theirs, 4), "ratio": round(theirs / ours, 2)}))
