"""What the tests against other engines share: an environment of their own, checks that are counted, and figures."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
MODEL = Path("artifacts/train/model.safetensors")
passed = failed = 0


def enter(name, *packages):
    """Goes on in TARGET/cloud/NAME, where the packages are installed; on success this returns there."""
    folder = TARGET / "cloud" / name
    if Path(sys.prefix) == folder:
        return
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = " ".join(packages)
    if not done.exists() or done.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(wanted)
    os.execv(python, [str(python), *sys.argv])


def program():
    if len(sys.argv) < 2:
        sys.exit(sys.modules["__main__"].__doc__)
    if not MODEL.exists():
        sys.exit("run this in a folder with a trained pipeline")
    return str(Path(sys.argv[1]).resolve())


def check(what, holds, why=""):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    print(f"{'ok    ' if holds else 'FAILED'}  {what}{'' if holds else f': {why}'}", flush=True)


def finish():
    print(f"{passed} of {passed + failed} checks")
    sys.exit(1 if failed or not passed else 0)


def run(*command, status=0, **options):
    """Runs a program whose exit status is known; gives what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if status is not None and done.returncode != status:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr[-3000:]}{done.stdout[-3000:]}")
    return done


def pictures(count):
    """The first prepared pictures, by path."""
    paths = sorted(str(path) for path in Path("artifacts/prepare").glob("*/*.png"))
    step = max(1, len(paths) // count)
    return paths[::step][:count]
