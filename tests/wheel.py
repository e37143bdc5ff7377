"""From nothing to a first report, as a user of the Python package: builds the wheel, installs it into an environment of
its own, makes a project and runs it with a short training.

Usage: python3 tests/wheel.py [WHEEL]

Without WHEEL, it makes one from the program that the tests built.
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def run(*command, **options):
    print("$", *command, flush=True)
    return subprocess.run([str(word) for word in command], check=True, **options)


def environment(folder):
    venv.create(folder, with_pip=True)
    return folder / "bin"


def build(folder):
    tools = environment(folder / "tools")
    run(tools / "pip", "install", "--quiet", "maturin>=1.9,<2")
    # The profile and the features of the tests, so that nothing is compiled again.
    options = ["--profile", "dev", "--all-features", "--locked", "--strip", "false", "--compatibility", "linux"]
    run(tools / "maturin", "build", *options, "--target-dir", TARGET, "--out", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


def first_report(wheel, folder):
    start = time.monotonic()
    programs = environment(folder / "user")
    run(programs / "pip", "install", "--quiet", "--no-index", wheel)
    program = programs / "similiai"
    run(program, "--version")
    run(program, "init", "demo", cwd=folder)
    demo = folder / "demo"
    ran = run(program, "run", "all", "--profile", "quick", "--set", "train.epochs=2", cwd=demo, capture_output=True, text=True)
    print(ran.stdout[-600:])
    assert (demo / "reports/index.html").stat().st_size > 100_000, "there is no report"
    assert "next: `similiai serve --open`, or `similiai query artifacts/prepare/" in ran.stdout, "the run says nothing to do next"
    found = run(program, "query", "artifacts/prepare/cat/00007.png", cwd=demo, capture_output=True, text=True)
    assert len(found.stdout.splitlines()) == 6, found.stdout
    size = wheel.stat().st_size / 2**20
    print(f"a wheel of {size:.1f} MiB: installed, and a first report after {time.monotonic() - start:.0f} s")


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    first_report(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else build(folder), folder)
