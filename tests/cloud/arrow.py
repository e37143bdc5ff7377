"""The Arrow filter with pyarrow on both of its ends, against `similiai embed` of the same files.

Usage: python3 tests/cloud/arrow.py SIMILIAI [ROWS], in a folder with a trained pipeline; ROWS go through it at once, and
its memory must not grow (default 20,000).
"""

import checks

checks.enter("arrow", "pyarrow")

import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from checks import MODEL, check

SIMILIAI = checks.program()
ROWS = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
FILTER = [SIMILIAI, "--quiet", "embed", "--arrow", "--model", MODEL]
paths = checks.pictures(200)
images = [Path(path).read_bytes() for path in paths]


def stream(*batches):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def batch(ids, images, id_type=pa.int64(), image_type=pa.binary()):
    return pa.record_batch([pa.array(ids, id_type), pa.array(images, image_type)], names=["id", "image"])


def through(data, *options):
    done = subprocess.run([*FILTER, *options], input=data, capture_output=True)
    return done.returncode, done.stderr.decode(), done.stdout


def refused(what, data, says, *options):
    status, said, _ = through(data, *options)
    check(f"{what} is refused", status == 4 and says in said, f"{status}: {said}")


with tempfile.TemporaryDirectory() as folder:
    file = f"{folder}/one.parquet"
    checks.run(SIMILIAI, "embed", *paths, "-o", file, "--model", MODEL)
    one, metadata = pq.read_table(file), pq.read_metadata(file).metadata
expected = dict(zip(one["path"].to_pylist(), one["embedding"].to_pylist()))

batches = [batch(paths[at : at + 64], images[at : at + 64], pa.string()) for at in range(0, 200, 64)]
status, said, out = through(stream(*batches))
read = list(pa.ipc.open_stream(out))
check("a batch for a batch", status == 0 and [b.num_rows for b in read] == [b.num_rows for b in batches], said)
table = pa.Table.from_batches(read)
check("in the same order", table["id"].to_pylist() == paths)
check("the vectors of `similiai embed`, to the bit", table["embedding"].to_pylist() == [expected[path] for path in paths])
check("of a fixed size", table.schema.field("embedding").type == pa.list_(pa.field("item", pa.float32(), False), 128),
      table.schema)
check("with the model's digest", table.schema.metadata[b"similiai.model"] == metadata[b"similiai.model"])
check("and nothing on stderr", not said, said)

for id_type, ids in [(pa.int32(), range(4)), (pa.large_string(), "abcd"), (pa.decimal128(9, 2), range(4)),
                     (pa.struct([("a", pa.int8())]), [{"a": 1}, None, {"a": 3}, {"a": 4}])]:
    for image_type in [pa.binary(), pa.large_binary(), pa.binary_view()]:
        given = batch(list(ids), images[:4], id_type, image_type)
        status, said, out = through(stream(given), "--list")
        found = pa.ipc.open_stream(out).read_all() if status == 0 else None
        same = found and found["id"].combine_chunks().equals(given["id"])
        rows = found and found["embedding"].to_pylist() == [expected[path] for path in paths[:4]]
        check(f"ids of {id_type}, images of {image_type}, as lists", same and rows, said)

mixed = batch([1, 2, 3, 4], [images[0], b"no picture", None, images[1][:900]])
status, said, out = through(stream(mixed))
rows = pa.ipc.open_stream(out).read_all().to_pylist() if status == 0 else []
check("what cannot be decoded is null, with the reason",
      [row["embedding"] is None for row in rows] == [False, True, True, True]
      and [row["error"] and row["error"][:6] for row in rows] == [None, "row 1 ", "row 2 ", "row 3 "], rows)
refused("with --strict it", stream(mixed), "row 1 is no picture", "--strict")
refused("a stream without pictures", stream(pa.record_batch([pa.array([1]), pa.array(["x"])], names=["id", "image"])),
        "`id` of Int64, `image` of Utf8")
refused("a stream without ids", stream(pa.record_batch([pa.array([b""])], names=["image"])), "`image` of Binary")
refused("what is no stream", b"hello, world, this is text", "not an Arrow IPC stream")
refused("nothing at all", b"", "not an Arrow IPC stream")
refused("a stream cut within a batch", stream(*batches)[:-9000], "breaks off after")
messages = [(message.body and message.body.size, message.serialize().to_pybytes())
            for message in pa.ipc.MessageReader.open_stream(stream(*batches))]
length, second = messages[2]
messages[2] = (length, second.replace(length.to_bytes(8, "little"), (length - 8).to_bytes(8, "little"), 1))
refused("a batch that is shorter than its columns", b"".join(message for _, message in messages) + b"\xff\xff\xff\xff\0\0\0\0",
        "breaks off after 64 rows")
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
    writer.write_batch(batches[0])
refused("a compressed batch", sink.getvalue().to_pybytes(), "without compression")
few = subprocess.run(["prlimit", "--nofile=7", *FILTER], input=stream(mixed), capture_output=True)
check("where no decoder can be started, no picture is to blame", few.returncode == 1 and b"cannot be started" in few.stderr, few)
status, said, out = through(stream(batch([], [])))
check("no rows are no pictures", status == 0 and pa.ipc.open_stream(out).read_all().num_rows == 0, said)

# What is written is to be had at once: the second batch is sent only when the first has come back.
process = subprocess.Popen(FILTER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
writer = pa.ipc.new_stream(process.stdin, batches[0].schema)
reader, turns = None, 0
for given in batches:
    writer.write_batch(given)
    process.stdin.flush()
    reader = reader or pa.ipc.open_stream(process.stdout)
    turns += reader.read_next_batch().num_rows == given.num_rows
writer.close()
process.stdin.close()
check("each batch comes back before the next is sent", turns == len(batches) and process.wait() == 0)

# Whoever waits for an answer before it sends more is told at once.
process = subprocess.Popen([*FILTER, "--strict"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
writer = pa.ipc.new_stream(process.stdin, mixed.schema)
writer.write_batch(mixed)
process.stdin.flush()
check("with --strict it ends while its input is still open", process.wait(60) == 4)

process = subprocess.Popen(FILTER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdout.close()
try:
    process.stdin.write(stream(*batches))
    process.stdin.close()
except BrokenPipeError:
    pass
said = process.stderr.read().decode()
check("a reader that goes ends it", process.wait() == 1 and "cannot write" in said, said)


def memory(pid):
    """Megabytes now and at the most; nothing for a process that has just ended."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM") if name in lines]


# Many rows: memory after a quarter of them, and at the most. The allocator keeps pieces of some fifteen batches before it finds
# a place for each among those that were freed: small ones, so that this is over by then.
EACH = 100
each = batch(list(range(EACH)), list(itertools.islice(itertools.cycle(images), EACH)))
process = subprocess.Popen(FILTER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def feed():
    with process.stdin, pa.ipc.new_stream(process.stdin, each.schema) as stream:
        for _ in range(ROWS // EACH):
            stream.write_batch(each)


feeding = threading.Thread(target=feed)
start = time.monotonic()
feeding.start()
rows, early = 0, None
for found in pa.ipc.open_stream(process.stdout):
    rows += found.num_rows
    resident, most = memory(process.pid) or (resident, most)
    if early is None and rows >= ROWS // 4:
        early = most
seconds = time.monotonic() - start
feeding.join()
check(f"{rows} rows in constant memory", process.wait() == 0 and rows == ROWS // EACH * EACH and most < 1.1 * early + 16,
      f"{early:.0f} MiB after a quarter, {most:.0f} MiB at the most")
print(json.dumps({"what": "arrow filter", "rows": rows, "images_per_second": round(rows / seconds),
                  "peak_mib": round(most), "cores": os.cpu_count()}))
checks.finish()
