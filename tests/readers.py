"""Reads the embeddings with the very lines that the book shows for other tools, and compares their five nearest with
those of `similiai query`, for 50 pictures.

Usage: python3 tests/readers.py SIMILIAI [TOOL...], in a folder with the embeddings; the tools beside NumPy default to
duckdb, pandas, polars, pyarrow and lancedb.
"""

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "docs/src/reading-results.md"
PACKAGES = {"DuckDB": "duckdb", "pandas": "pandas", "polars": "polars", "pyarrow": "pyarrow", "Spark": "pyspark",
            "LanceDB": "lancedb", "Hugging Face datasets": "datasets"}
# The picture that the book asks about.
SHOWN = re.compile(r"\b7\b")

if len(sys.argv) < 2:
    sys.exit(__doc__)
tools = sys.argv[2:] or ["duckdb", "pandas", "polars", "pyarrow", "lancedb"]
folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "readers"
if Path(sys.prefix) != folder:
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "pyarrow", *tools], check=True)
    os.execv(python, [str(python), *sys.argv])

blocks = {}
for language, block in re.findall(r"^```(sql|python)\n(.*?)^```", BOOK.read_text(), re.M | re.S):
    if "embeddings.parquet" in block:
        blocks[block.splitlines()[0].lstrip("-# ")] = (language, block)
wanted = [name for name, package in PACKAGES.items() if package in tools]
if len(wanted) != len(tools):
    sys.exit(f"unknown tools in {tools}; there are {sorted(PACKAGES.values())}")
if missing := [name for name in wanted if name not in blocks]:
    sys.exit(f"{BOOK} shows nothing for {', '.join(missing)}")

count = int(subprocess.run([folder / "bin" / "python", "-c", "import pyarrow.parquet as p; "
            "print(p.read_metadata('artifacts/embed/embeddings.parquet').num_rows)"],
            check=True, capture_output=True, text=True).stdout)
ids = sorted(random.Random(42).sample(range(count), 50))
ask = [sys.argv[1], "query", "-k", "5", "--json", *(f"--id={id}" for id in ids)]
answers = map(json.loads, subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines())
expected = [[hit["path"] for hit in answer["results"]] for answer in answers]
failed = 0
for name in wanted:
    language, block = blocks[name]
    for id, paths in zip(ids, expected):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            lines = SHOWN.sub(str(id), block)
            if language == "sql":
                import duckdb

                print(duckdb.sql(lines).fetchall())
            else:
                exec(lines, {})
        found = re.findall(r"[\w-]+/\d{5}\.png", shown.getvalue())
        if found != paths:
            print(f"{name}, picture {id}: {found}\n  where similiai finds {paths}")
            failed += 1
    print(f"{name}: {len(ids)} pictures compared", flush=True)
compared = len(wanted) * len(ids)

# And back: a gallery as other tools write it, with their own compression and types. What loses the footer is refused with
# the line that keeps it.
ORIGINAL = "artifacts/embed/embeddings.parquet"


def search(gallery):
    return subprocess.run([*ask, "--gallery", gallery], capture_output=True, text=True)


def with_pyarrow(gallery, model):
    import pyarrow.parquet as parquet

    # What stands beside the schema in the footer is not read with a table.
    table = parquet.read_table(ORIGINAL).replace_schema_metadata({"similiai.model": model})
    parquet.write_table(table, gallery)


def with_pandas(gallery, model):
    import pandas
    import pyarrow
    import pyarrow.parquet as parquet

    frame = pandas.read_parquet(ORIGINAL)
    frame["label_name"] = frame["label_name"].astype("category")
    frame["label"] = None
    frame["id"] = frame["id"].astype(str)
    table = pyarrow.Table.from_pandas(frame[["embedding", "path", "label_name", "id", "label", "split"]])
    parquet.write_table(table.replace_schema_metadata({"similiai.model": model}), gallery, compression="gzip")


def with_duckdb(gallery, model):
    import duckdb

    duckdb.sql(f"COPY (SELECT *, 1 AS extra FROM '{ORIGINAL}') TO '{gallery}' "
               f"(FORMAT parquet, COMPRESSION lz4, KV_METADATA {{'similiai.model': '{model}'}})")


def with_polars(gallery, model):
    import polars

    polars.read_parquet(ORIGINAL).write_parquet(gallery)


made_by = subprocess.run([folder / "bin" / "python", "-c", "import pyarrow.parquet as p; "
                          f"print(p.read_metadata('{ORIGINAL}').metadata[b'similiai.model'].decode())"],
                         check=True, capture_output=True, text=True).stdout.strip()
for tool, write in {"pyarrow": with_pyarrow, "pandas": with_pandas, "duckdb": with_duckdb, "polars": with_polars}.items():
    if tool not in tools:
        continue
    gallery = f"target/{tool}.parquet"
    write(gallery, made_by)
    found = search(gallery)
    if tool == "polars":
        right = found.returncode == 4 and f"KV_METADATA {{'similiai.model': '{made_by}'}}" in found.stderr
    else:
        answers = map(json.loads, found.stdout.splitlines())
        right = [[hit["path"] for hit in answer["results"]] for answer in answers] == expected
    print(f"{tool}: a gallery that it wrote is {'read, or refused with what to write' if right else 'WRONG: ' + found.stderr}")
    compared += 1
    failed += not right
print(f"{compared - failed} passed, {failed} failed")
sys.exit(failed > 0)
