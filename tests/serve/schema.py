"""Holds `similiai serve` against its own OpenAPI document, by schemathesis.

Usage: python3 tests/serve/schema.py SIMILIAI [EXAMPLES], in a folder with a trained pipeline; for each operation so
many examples (default 100) in each phase.
"""

import os
import subprocess
import sys
from pathlib import Path

import environment

if len(sys.argv) < 2:
    sys.exit(__doc__)
environment.enter()
program, examples = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "100"
here = Path(__file__).resolve().parent
with environment.Server(program) as server:
    command = [
        Path(sys.prefix) / "bin" / "schemathesis", "--config-file", here / "schemathesis.toml", "run",
        f"{server.address}/api/openapi.json", "--max-examples", examples, "--seed", "1", "--no-color",
    ]
    paths = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    # Where it keeps what it found is beside its own installation.
    hooks = {"PYTHONPATH": paths, "SCHEMATHESIS_HOOKS": "pictures"}
    tested = subprocess.run(command, cwd=sys.prefix, env={**os.environ, **hooks})
    lives = server.process.poll() is None
if not lives:
    sys.exit("the server has ended")
sys.exit(tested.returncode)
