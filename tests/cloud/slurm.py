"""`examples/embed.sbatch` on a real Slurm of this one machine, against `similiai embed` without it.

Usage: python3 tests/cloud/slurm.py SIMILIAI, in a folder with a trained pipeline; needs Debian's slurmctld, slurmd,
slurm-client and munge
"""

import checks

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import ROOT, check
from servers import free_ports

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def prctl(option, value):
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


class Slurm:
    """munged, slurmctld and slurmd, with a key and sockets of their own."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        for name in ["state", "spool"]:
            (folder / name).mkdir()
        # Its socket must be below a folder that only its owner writes to.
        folder.chmod(0o755)
        (folder / "munge.key").touch(0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        host = socket.gethostname().split(".")[0]
        user = pwd.getpwuid(os.geteuid()).pw_name
        (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, user=user, ports=free_ports(2)))
        foreign = re.compile("SLURM|SBATCH|SQUEUE|SINFO")
        self.environment = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}

    def __enter__(self):
        prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the steps of jobs leave their parent, and then are ours
        munge = f"{self.folder}/munge"
        self.start(["munged", "--foreground", "--force", f"--key-file={munge}.key", f"--socket={munge}.sock", f"--pid-file={munge}.pid",
                    f"--log-file={munge}.log", f"--seed-file={munge}.seed"], ["munge", f"--socket={munge}.sock", "--no-input"])
        self.start(["slurmctld", "-D", "-c"], ["scontrol", "ping"], "UP")
        self.start(["slurmd", "-D"], ["sinfo", "-h", "-o", "%T"], "idle")
        return self

    def start(self, command, ask, answer=""):
        out = open(self.folder / f"{command[0]}.out", "wb")
        end_with_us = lambda: prctl(1, signal.SIGKILL)
        self.processes.append(subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                               preexec_fn=end_with_us))
        end = time.monotonic() + 60
        while time.monotonic() < end and self.processes[-1].poll() is None:
            done = subprocess.run(ask, env=self.environment, capture_output=True, text=True)
            if done.returncode == 0 and answer in done.stdout:
                return
            time.sleep(0.1)
        self.__exit__()
        sys.exit("\n".join(file.read_text(errors="replace")[-2000:] for file in self.folder.glob("*.[lo][ou][gt]")))

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
        # What jobs left came to us.
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        for pid in map(int, children.read_text().split()) if children.exists() else []:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *command, **environment):
        return checks.run(*command, env={**self.environment, **environment}, cwd=self.folder).stdout.strip()

    def wait(self, job, seconds=300):
        end = time.monotonic() + seconds
        while True:
            shown = self.run("scontrol", "-o", "show", "job", job)
            states = re.findall(r"JobState=(\S+)", shown)
            if states and all(state in OVER for state in states):
                return states
            if time.monotonic() > end:
                sys.exit(f"job {job} does not end:\n{shown}")
            time.sleep(0.2)


def output(folder):
    return "\n".join(file.read_text() for file in sorted(folder.glob("slurm-*.out")))


SIMILIAI = checks.program()
root = Path(tempfile.mkdtemp(prefix="slurm-"))
pictures = root / "pictures"
for path in map(Path, checks.pictures(301)):
    (pictures / path.parent.name).mkdir(parents=True, exist_ok=True)
    shutil.copy(path, pictures / path.parent.name)
model = checks.MODEL.resolve()
whole, joined = root / "whole.parquet", root / "joined.parquet"
checks.run(SIMILIAI, "embed", pictures, "--model", model, "-o", whole)
with Slurm(root) as slurm:
    script = ["bash", ROOT / "examples/embed.sbatch", pictures, joined, model, "4"]
    start = time.monotonic()
    states = slurm.wait(slurm.run(*script, SIMILIAI=SIMILIAI))
    seconds = time.monotonic() - start
    parts = sorted((root / "joined.parquet.parts").glob("*.parquet"))
    check("an array of four and the job that joins them", states == ["COMPLETED"] and len(parts) == 4, output(root))
    check("the file that one machine makes, to the byte", joined.exists() and joined.read_bytes() == whole.read_bytes())
    print(f"          in {seconds:.1f} s")
    before = [part.read_bytes() for part in parts]
    parts[2].unlink()
    states = slurm.wait(slurm.run("sbatch", "--parsable", "--array=3", *script[1:], SIMILIAI=SIMILIAI))
    check("a task that is repeated writes the same again",
          states == ["COMPLETED"] and [part.read_bytes() for part in parts] == before, output(root))
shutil.rmtree(root)
checks.finish()
