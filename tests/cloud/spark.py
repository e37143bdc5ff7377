"""`examples/spark_embed.py` on a real Spark cluster of this one machine, a worker of which is killed midway.

Usage: python3 tests/cloud/spark.py SIMILIAI [ROWS [WORKERS...]], in a folder with a trained pipeline; needs Java 17. With
WORKERS, only the throughput of so many (default: 1,200 rows, with two workers and the kill)
"""

import checks

checks.enter("spark", "pyspark==4.3.*", "pyarrow", "pandas")

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
from checks import MODEL, ROOT, check
from servers import free_ports

SIMILIAI = checks.program()
ROWS = int(sys.argv[2]) if len(sys.argv) > 2 else 1200
WORKERS = [int(count) for count in sys.argv[3:]]
FILES = 12
SPARK = Path(pyspark.__file__).parent
MASTER, WORKER = (f"org.apache.spark.deploy.{name}" for name in ["master.Master", "worker.Worker"])


def processes(session):
    """All that live in a session: the worker, its executor, Python and what Python started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
                found[int(stat.parent.name)] = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def kill(process):
    while alive := processes(process.pid):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    process.wait()


class Cluster:
    def __init__(self, folder, workers):
        self.folder = folder
        for name in ["temporary", "configuration", "events"]:
            (folder / name).mkdir(parents=True)
        port, self.page = free_ports(2)
        self.address = f"spark://127.0.0.1:{port}"
        self.java = f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Djava.io.tmpdir={folder / 'temporary'}"
        foreign = ("SPARK_", "PYSPARK_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.environment |= {
            "SPARK_HOME": str(SPARK), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_DIRS": str(folder / "temporary"), "SPARK_CONF_DIR": str(folder / "configuration"),
            "SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": self.java + " -Dspark.master.rest.enabled=false",
        }
        self.started = []
        self.start("master", SPARK / "bin/spark-class", MASTER, "--host", "127.0.0.1", "--port", port, "--webui-port", self.page)
        self.workers = [
            self.start(f"worker-{number}", SPARK / "bin/spark-class", WORKER, "--host", "127.0.0.1", "--cores", 1, "--memory", "768m",
                       "--webui-port", 0, "--work-dir", folder / f"work-{number}", self.address)
            for number in range(workers)]
        self.until("the workers are there", lambda: self.alive() == workers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            kill(process)

    def start(self, name, *command):
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen([str(part) for part in command], env=self.environment, cwd=self.folder, start_new_session=True,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def until(self, what, holds, seconds=240):
        end = time.monotonic() + seconds
        while not (found := holds()):
            if time.monotonic() > end or self.started[-1].poll() is not None:
                self.__exit__()
                logs = [f"{log}:\n{log.read_text(errors='replace')[-3000:]}" for log in self.folder.glob("*.log")]
                sys.exit(f"not so that {what}:\n" + "\n".join(logs))
            time.sleep(0.1)
        return found

    def alive(self):
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.page}/json/", timeout=2) as answer:
                return json.load(answer)["aliveworkers"]

    def submit(self, *arguments):
        settings = {
            "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.port": "0",
            "spark.driver.memory": "512m", "spark.executor.memory": "512m", "spark.executor.cores": "1",
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
            "spark.driver.extraJavaOptions": self.java, "spark.executor.extraJavaOptions": self.java,
            # Snappy, the default, does not load where both glibc and musl are installed.
            "spark.sql.parquet.compression.codec": "uncompressed",
            # Small batches, and a task for each file.
            "spark.sql.execution.arrow.maxRecordsPerBatch": "25", "spark.sql.files.maxPartitionBytes": "1m",
            "spark.eventLog.enabled": "true", "spark.eventLog.dir": (self.folder / "events").as_uri(),
            "spark.eventLog.rolling.enabled": "false", "spark.eventLog.compress": "false",
        }
        settings = [f"--conf={name}={value}" for name, value in settings.items()]
        return self.start("job", SPARK / "bin/spark-submit", "--master", self.address, *settings, ROOT / "examples/spark_embed.py", *arguments)

    def events(self):
        [log] = [path for path in (self.folder / "events").iterdir() if not path.name.startswith(".")]
        return [json.loads(line) for line in log.open()]


paths = checks.pictures(ROWS)
rows = list(itertools.islice(itertools.cycle(paths), ROWS))
root = Path(tempfile.mkdtemp(prefix="spark-"))
model, table, target = MODEL.resolve(), root / "in", root / "out"
table.mkdir()
bytes_of = {path: Path(path).read_bytes() for path in paths}
for number in range(FILES):
    places = range(number, ROWS, FILES)
    images = [bytes_of[rows[place]] for place in places]
    pq.write_table(pa.table({"id": pa.array(places, pa.int64()), "image": pa.array(images, pa.binary())}), table / f"{number}.parquet",
                   compression="none")

for count in WORKERS:
    with Cluster(root / f"cluster-{count}", count) as cluster:
        start = time.monotonic()
        job = cluster.submit(table, target, SIMILIAI, model)
        check(f"{count} workers embed {ROWS} rows", job.wait(1200) == 0, (cluster.folder / "job.log").read_text()[-3000:])
        seconds = time.monotonic() - start
        ends = [event["Task Info"] for event in cluster.events() if event["Event"] == "SparkListenerTaskEnd"]
        working = (max(task["Finish Time"] for task in ends) - min(task["Launch Time"] for task in ends)) / 1000
        print(json.dumps({"what": "spark", "workers": count, "rows": ROWS, "seconds": round(seconds, 1),
                          "images_per_second": round(ROWS / seconds), "images_per_second_within_tasks": round(ROWS / working)}))
        shutil.rmtree(target)
if WORKERS:
    shutil.rmtree(root)
    checks.finish()

# The first `embed` of all stops before it begins, so its task cannot end: the kill hits one midway.
stopping, stopped = root / "similiai", root / "stopped"
stopping.write_text(f"#!/bin/sh\nmkdir '{stopped}' 2>/dev/null && echo $$ >'{stopped}/pid' && kill -STOP $$\nexec '{SIMILIAI}' \"$@\"\n")
stopping.chmod(0o755)

with Cluster(root / "cluster", 2) as cluster:
    job = cluster.submit(table, target, stopping, model)
    cluster.until("a task is done", lambda: len(list(target.glob("_temporary/0/task_*"))) >= 3)
    held = int((stopped / "pid").read_text())
    [victim] = [worker for worker in cluster.workers if held in processes(worker.pid)]
    killed = processes(victim.pid)
    kill(victim)
    done = len(list(target.glob("_temporary/0/task_*")))
    check(f"a worker is killed midway, {done} of {FILES} tasks done", done < FILES and len(killed) >= 4, killed)
    check("the job ends well", job.wait(600) == 0, (cluster.folder / "job.log").read_text()[-3000:])
    ends = [event for event in cluster.events() if event["Event"] == "SparkListenerTaskEnd"]
    lost = {(end["Stage ID"], end["Task Info"]["Index"]) for end in ends if end["Task End Reason"]["Reason"] == "ExecutorLostFailure"}
    again = {(end["Stage ID"], end["Task Info"]["Index"]) for end in ends
             if end["Task End Reason"]["Reason"] == "Success" and end["Task Info"]["Attempt"] > 0}
    check("a task was lost with it, and made again", lost & again, (lost, again))

checks.run(SIMILIAI, "embed", *paths, "-o", root / "one.parquet", "--model", model)
one = pq.read_table(root / "one.parquet")
expected = dict(zip(one["path"].to_pylist(), one["embedding"].to_pylist()))
found = pq.read_table(target).sort_by("id")
check("every row is there, and once", found["id"].to_pylist() == list(range(ROWS)))
check("its vectors are those of one machine, to the bit", found["embedding"].to_pylist() == [expected[path] for path in rows])
check("and none failed", found["error"].null_count == ROWS)
shutil.rmtree(root)
checks.finish()
