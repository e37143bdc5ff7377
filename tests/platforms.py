"""Runs the pipeline on an emulated 64-bit ARM CPU, or under Wine: it gives the bytes of this machine.

Usage: python3 tests/platforms.py SIMILIAI arm|windows PROGRAM, where SIMILIAI is built for this machine
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# An emulated CPU takes half a minute for a full step of training, so this network sees few pictures.
MANIFEST = """\
version: 1
seed: 7
stages:
  fetch: {uses: fetch, source: sample.tar.gz}
  prepare: {uses: prepare, needs: [fetch], images_per_class: 8}
  split: {uses: split, needs: [prepare]}
  train: {uses: train, needs: [prepare, split], epochs: 1, images_per_class: 3, validation: 0.25, embed: {shift: 0}}
  embed: {uses: embed, needs: [prepare, split, train]}
  index: {uses: index, needs: [embed]}
  benchmark: {uses: benchmark, needs: [prepare, train, embed], out: reports}
"""

# Wine 8 lacks a library of Windows that the standard library of Rust takes random numbers from.
RANDOM_NUMBERS = """\
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T count) { return SystemFunction036(bytes, (ULONG)count); }
"""


def emulator(platform, program, folder):
    """The command that runs the program here."""
    if platform == "arm":
        return ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program]
    shutil.copy(program, folder / "similiai.exe")
    (folder / "random.c").write_text(RANDOM_NUMBERS)
    compiler = ["x86_64-w64-mingw32-gcc-posix", "-shared", "-o", folder / "bcryptprimitives.dll", folder / "random.c", "-ladvapi32"]
    subprocess.run(compiler, check=True)
    os.environ |= {"WINEPREFIX": str(folder / "wine"), "WINEDEBUG": "-all"}
    return ["wine", folder / "similiai.exe"]


def run(*command, status=0, cwd):
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    what = " ".join(str(word) for word in command[1:])
    assert done.returncode == status, f"{what} ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    print("ok", what, flush=True)
    return done.stdout if status == 0 else done.stdout + done.stderr


native, platform, program = Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3]).resolve()
# Wine may still write for a moment after its program has ended.
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    folder = Path(folder)
    here, there = folder / "here", folder / "there"
    here.mkdir()
    (here / "pipeline.yaml").write_text(MANIFEST)
    shutil.copy(ROOT / "data/cifar-10-sample-2k.tar.gz", here / "sample.tar.gz")
    shutil.copytree(here, there)
    run(native, "run", "all", cwd=here)
    run(native, "lock", cwd=here)
    shutil.copy(here / "pipeline.lock", there)

    other = emulator(platform, program, folder)
    ran = run(*other, "run", "all", "--locked", cwd=there)
    same = [line for line in ran.splitlines() if line.endswith(" same")]
    assert len(same) == MANIFEST.count("uses:"), ran
    picture = "artifacts/prepare/cat/00007.png"
    # An emulated program cannot start the process that decodes pictures.
    query = ["query", "--id", 37] if platform == "arm" else ["query", picture]
    found = [run(*command, *query, cwd=at) for command, at in [([native], here), (other, there)]]
    assert found[0] == found[1] and len(found[0].splitlines()) == 6, found
    assert "0 damaged" in run(*other, "verify", cwd=there)
    (there / picture).write_bytes(b"damaged")
    assert "cat/00007.png" in run(*other, "verify", status=4, cwd=there)
    run(*other, "run", "all", cwd=there)
    run(*other, "verify", cwd=there)
    (folder / "empty").mkdir()
    assert "make a project with `similiai init DIR`" in run(*other, "run", "all", status=2, cwd=folder / "empty")
    assert "built without `similiai publish`" in run(*other, "publish", status=2, cwd=there)
