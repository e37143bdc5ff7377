"""Compares the approximate index with hnswlib: 1,000,000 × 128 clustered vectors, the same M and ef.

The vectors are the embeddings of a pipeline, each about 500 times, with different noise each time.

Usage: python3 benches/peers/hnsw.py [EMBEDDINGS.parquet [COUNT]]
"""

import turns

turns.in_environment("hnsw", ["hnswlib", "numpy", "pyarrow", "setuptools"])

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import hnswlib
import numpy
import pyarrow.parquet

M, EF_CONSTRUCTION, K, QUERIES, NOISE = 16, 128, 10, 2000, 0.35
WIDTHS = [16, 32, 64, 128, 256]
TARGET = 0.95

table = pyarrow.parquet.read_table(sys.argv[1] if len(sys.argv) > 1 else "artifacts/embed/embeddings.parquet")
real = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
count, dimension = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000, real.shape[1]
random = numpy.random.default_rng(42)


def vectors(count):
    found = real[random.integers(len(real), size=count)]
    found = found + random.standard_normal(found.shape, numpy.float32) * (NOISE / dimension**0.5)
    return (found / numpy.linalg.norm(found, axis=1, keepdims=True)).astype(numpy.float32)


gallery, queries = vectors(count), vectors(QUERIES)
folder = Path(tempfile.mkdtemp())
gallery.tofile(folder / "gallery")
queries.tofile(folder / "queries")
ours = turns.Bench("search", dimension, K, folder / "gallery", folder / "queries")


def found():
    ours.seconds(f"dump {folder / 'ids'}")
    return numpy.fromfile(folder / "ids", numpy.int64).reshape(QUERIES, K)


print(f"exact search: {QUERIES / ours.seconds('batch 0'):.0f} queries/s", flush=True)
exact = found()


def recall(ids):
    return sum(len(set(a) & set(b)) for a, b in zip(ids, exact)) / exact.size


built = ours.seconds(f"link {M},{EF_CONSTRUCTION}")
print(f"build: ours {built:.0f} s with one thread, so that its bytes are the same every time", flush=True)
index = hnswlib.Index(space="l2", dim=dimension)
index.init_index(count, M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
index.set_num_threads(turns.THREADS)
start = time.perf_counter()
index.add_items(gallery)
theirs = time.perf_counter() - start
print(f"build: hnswlib {theirs:.0f} s with {turns.THREADS} threads", flush=True)

curves = {"ours": [], "hnswlib": []}
for ef in WIDTHS:
    times = {"ours": [], "hnswlib": []}
    index.set_ef(max(ef, K))
    for _ in range(turns.TURNS):
        times["ours"].append(ours.seconds(f"graph {ef}"))
        start = time.perf_counter()
        labels, _ = index.knn_query(queries, K)
        times["hnswlib"].append(time.perf_counter() - start)
    for name, ids in (("ours", found()), ("hnswlib", labels)):
        curves[name].append((recall(ids), QUERIES / statistics.median(times[name])))
        print(f"ef {ef:4}: {name:8} recall@{K} {curves[name][-1][0]:.4f}, {curves[name][-1][1]:7.0f} queries/s", flush=True)


def speed_at(curve):
    """Returns queries a second at the target recall, interpolated on logarithmic axes."""
    recalls, speeds = zip(*curve)
    return float(numpy.exp(numpy.interp(TARGET, recalls, numpy.log(speeds))))


us, peer = speed_at(curves["ours"]), speed_at(curves["hnswlib"])
print(json.dumps({"what": f"approximate search, queries/s at recall@{K} {TARGET}", "ours": round(us), "peer": round(peer),
                  "ratio": round(us / peer, 2), "build_seconds": {"ours": round(built), "peer": round(theirs)},
                  "ratio_build": round(theirs / built, 2), "curves": curves}))
