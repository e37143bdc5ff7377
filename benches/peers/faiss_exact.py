"""Compares exact search with FAISS's `IndexFlatL2`: 10,000 queries at once, and single queries, on 50,000 × 128.

Usage: python3 benches/peers/faiss_exact.py
"""

import turns

turns.in_environment("faiss", ["faiss-cpu", "numpy"])

import json
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy

GALLERY, QUERIES, DIMENSION, K, SINGLE = 50_000, 10_000, 128, 10, 200

faiss.omp_set_num_threads(turns.THREADS)
random = numpy.random.default_rng(42)
# Clusters on the unit sphere, like embeddings.
centres = random.standard_normal((100, DIMENSION))


def vectors(count):
    found = centres[random.integers(len(centres), size=count)] + random.standard_normal((count, DIMENSION))
    return (found / numpy.linalg.norm(found, axis=1, keepdims=True)).astype(numpy.float32)


gallery, queries = vectors(GALLERY), vectors(QUERIES)
folder = Path(tempfile.mkdtemp())
gallery.tofile(folder / "gallery")
queries.tofile(folder / "queries")
ours = turns.Bench("search", DIMENSION, K, folder / "gallery", folder / "queries")
start = time.perf_counter()
index = faiss.IndexFlatL2(DIMENSION)
index.add(gallery)
added = time.perf_counter() - start
print(f"making ready: ours {ours.seconds('arrange 0'):.3f} s, FAISS {added:.3f} s")


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_by_one():
    for query in queries[:SINGLE]:
        index.search(query[None], K)


cases = {
    f"{QUERIES:,} queries at once": (lambda: ours.seconds("batch 0"), lambda: timed(lambda: index.search(queries, K))),
    "one query": (lambda: ours.seconds(f"one {SINGLE}") / SINGLE, lambda: timed(one_by_one) / SINGLE),
}
results = []
for name, sides in cases.items():
    [run() for run in sides]
    turned = [[run() for run in sides] for _ in range(turns.TURNS)]
    us, peer = (statistics.median(times) for times in zip(*turned))
    spread = [f"{min(times) * 1e3:.2f} to {max(times) * 1e3:.2f}" for times in zip(*turned)]
    print(f"{name}: ours {us * 1e3:.2f} ms ({spread[0]}), FAISS {peer * 1e3:.2f} ms ({spread[1]}), ratio {peer / us:.2f}")
    results.append({"case": name, "ours": round(us, 6), "peer": round(peer, 6), "ratio": round(peer / us, 2)})

# Compares the ids that both find. Where they differ, distances in 64 bits show which are right.
ours.seconds("batch 0")
ours.seconds(f"dump {folder / 'ids'}")
found = numpy.fromfile(folder / "ids", numpy.int64).reshape(QUERIES, K)
_, theirs = index.search(queries, K)
different, tied, right = numpy.flatnonzero((found != theirs).any(axis=1)), 0, 0
for row in different:
    def exactly(ids):
        return ((gallery[ids].astype(float) - queries[row].astype(float)) ** 2).sum(axis=1)

    mine, other = exactly(found[row]), exactly(theirs[row])
    # The distances are equal in 32 bits, so either order is right.
    tied += (mine.astype(numpy.float32) == other.astype(numpy.float32)).all()
    right += (numpy.diff(mine) >= 0).all() and mine.sum() <= other.sum()
equal = QUERIES - len(different)
print(f"equal ids on {equal} of {QUERIES} rows; of the other {len(different)}, {tied} are ties in 32 bits;")
print(f"ours are in the order of the distances in 64 bits on {right} of them")
worst = min(results, key=lambda result: result["ratio"])
print(json.dumps({"what": f"exact search, {worst['case']}", **{k: worst[k] for k in ("ours", "peer", "ratio")},
                  "cases": results, "rows_with_other_ids": len(different), "ties": int(tied)}))
