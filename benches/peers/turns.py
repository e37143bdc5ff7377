"""Code that the comparisons share: virtual environments, our side as a process, and measurements in turns."""

import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
THREADS = 2
TURNS = 7
SIDES = {"original": 64, "residual": 32}


def in_environment(name, packages):
    """Restarts the script in the virtual environment target/peers/NAME, with the packages installed; returns only there."""
    folder = ROOT / "target" / "peers" / name
    if Path(sys.prefix) == folder:
        return
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"installing {' '.join(packages)} into {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    os.execv(python, [str(python), *sys.argv])


class Bench:
    """Runs `cargo bench --bench NAME` and sends commands to it."""

    def __init__(self, name, *arguments):
        build = ["cargo", "bench", "--quiet", "--bench", name, "--no-run"]
        subprocess.run(build, cwd=ROOT, check=True)
        command = [*build[:-1], "--", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "RAYON_NUM_THREADS": str(THREADS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"our side stopped at `{command}`")
        return float(answer)


class Ours(Bench):
    """Our side of the comparison of training or inference."""

    def __init__(self, network, batch, *options):
        super().__init__("steps", network, batch, *options)
        self.batch = batch

    def speed(self, command, count):
        """Returns images a second."""
        return count * self.batch / self.seconds(f"{command} {count}")


def compare(what, ours, peers, compiled=()):
    """Runs our side and the peers in turns, and prints the medians in images a second. The last line is JSON.

    In it, `peer` is the best peer that is not in `compiled`, and `compiled` is the best of those.
    """
    speeds = {name: [] for name in ["ours", *peers]}
    for _ in range(TURNS):
        speeds["ours"].append(ours())
        for name, run in peers.items():
            speeds[name].append(run())
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    for name, found in speeds.items():
        print(f"{what}: {name:24} {medians[name]:7.0f} images/s  ({min(found):.0f} to {max(found):.0f})")
    ours = medians["ours"]
    best = max(medians[name] for name in peers if name not in compiled)
    result = {"what": what, "ours": round(ours, 1), "peer": round(best, 1), "ratio": round(ours / best, 2)}
    if compiled:
        best = max(medians[name] for name in compiled)
        result |= {"compiled": round(best, 1), "ratio_compiled": round(ours / best, 2)}
    print(json.dumps(result), flush=True)


def network_and_batch():
    """Returns the network and the number of images in a batch, from the command line."""
    network = sys.argv[1] if len(sys.argv) > 1 else "original"
    if network not in SIDES:
        sys.exit(f"usage: {sys.argv[0]} [original|residual [BATCH]]")
    return network, int(sys.argv[2]) if len(sys.argv) > 2 else {"original": 96, "residual": 160}[network]
