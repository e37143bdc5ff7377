"""Embeds a table of pictures with Spark. Columns `id` and `image` (encoded pictures) become `id`, `embedding`, `error`.

Usage: spark-submit [--files model.safetensors] examples/spark_embed.py IN OUT SIMILIAI MODEL

IN and OUT are folders of Parquet files that all workers can reach. SIMILIAI and MODEL have the same path on all.
"""

import ctypes
import itertools
import signal
import subprocess
import sys
import threading

from pyspark.sql import SparkSession


def through(command):
    """Returns a function for `mapInArrow` that sends all batches of a task through one process."""
    def embed(batches):
        import pyarrow
        first = next(batches := iter(batches), None)
        if first is None:
            return
        # If Spark kills the Python worker, the process must end too.
        die = lambda prctl=ctypes.CDLL(None).prctl: prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die)
        said, failed, rows = [], [], {"in": 0, "out": 0}

        def feed():
            try:
                with process.stdin, pyarrow.ipc.new_stream(process.stdin, first.schema) as stream:
                    for batch in itertools.chain([first], batches):
                        rows["in"] += batch.num_rows
                        stream.write_batch(batch)
            except BrokenPipeError:
                pass  # the process has ended; its exit status is checked below
            except BaseException as error:
                failed.append(error)
                process.kill()

        threads = [threading.Thread(target=feed, daemon=True),
                   threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)]
        [thread.start() for thread in threads]
        try:
            try:
                for batch in pyarrow.ipc.open_stream(process.stdout):
                    rows["out"] += batch.num_rows
                    yield batch
            except pyarrow.ArrowInvalid as error:
                failed.append(error)
            status = process.wait()
            [thread.join(30) for thread in threads]
            # A stream that ends too early looks complete, so the rows are counted.
            if failed or status or rows["in"] != rows["out"]:
                raise RuntimeError(f"exit status {status}, {rows}, {failed}: {b''.join(said[-20:]).decode(errors='replace')}")
        finally:
            process.kill()
    return embed


if __name__ == "__main__":
    source, target, program, model = sys.argv[1:]
    spark = SparkSession.builder.getOrCreate()
    pictures = spark.read.parquet(source).select("id", "image")
    schema = f"id {pictures.schema['id'].dataType.simpleString()}, embedding array<float>, error string"
    command = [program, "--quiet", "embed", "--arrow", "--list", "--model", model]
    pictures.mapInArrow(through(command), schema).write.parquet(target)
