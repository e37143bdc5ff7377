"""What the tests of `similiai serve` share: a virtual environment, and the server as a process."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["schemathesis>=4,<5", "pillow"]


def enter():
    """Goes on in target/serve, where the packages are installed; returns there."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "serve"
    if Path(sys.prefix) == folder:
        return
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.touch()
    os.execv(python, [str(python), *sys.argv])


def megabytes(process, name):
    try:
        with open(f"/proc/{process}/status") as status:
            return next((int(line.split()[1]) for line in status if line.startswith(name + ":")), 0) / 1000
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Server:
    """`similiai serve` on a free port, in the folder that is worked in."""

    def __init__(self, program):
        command = [program, "--quiet", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip().rstrip("/")
        self.port = int(self.address.rsplit(":")[-1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def workers(self):
        """The processes that decode pictures for it."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            found = set(children.read().split())
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                with open(f"/proc/{self.process.pid}/task/{thread}/children") as children:
                    found |= set(children.read().split())
            except FileNotFoundError:
                pass
        return found

    def megabytes(self, name="VmRSS"):
        """Of the server and its workers together."""
        return sum(megabytes(process, name) for process in [self.process.pid, *self.workers()])

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))
