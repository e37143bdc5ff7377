"""Holds the figures of `results.json` and `queries.csv` against other people's code on the same Parquet file:
scikit-learn (neighbours, of raw pixels too, and the confusion matrix) and pytorch-metric-learning (precision@1, R-precision, MAP@R).

Usage: python3 tests/figures.py, in a folder with reports/ and artifacts/ of a run on at most 1,000 test pictures.

Needs Debian's python3-torch, which is built for the CPU alone; the rest is installed into target/figures.
"""

import csv
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"
TOLERANCE = 1e-6
# NumPy as the torch of Debian 12 knows it, and the last pyarrow that does.
PACKAGES = ["numpy<2", "pyarrow<20", "scikit-learn", "pytorch-metric-learning", "pillow"]

folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "figures"
if Path(sys.prefix) != folder:
    if not (folder / "installed").exists():
        subprocess.run([PYTHON, "-m", "venv", "--clear", "--system-site-packages", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "installed").touch()
    os.execv(folder / "bin" / "python", [str(folder / "bin" / "python"), *sys.argv])

import numpy
import pyarrow.parquet
import torch
from PIL import Image
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import confusion_matrix, pairwise_distances
from sklearn.neighbors import NearestNeighbors

reports, artifacts = Path("reports"), Path("artifacts")
table = pyarrow.parquet.read_table(artifacts / "embed" / "embeddings.parquet")
results = json.loads((reports / "results.json").read_text())
vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1).astype(numpy.float64)
labels, splits = table["label"].to_numpy(), numpy.array(table["split"].to_pylist())
paths, names = table["path"].to_pylist(), dict(zip(labels.tolist(), table["label_name"].to_pylist()))
test, train = numpy.flatnonzero(splits == "test"), numpy.flatnonzero(splits == "train")
passed = failed = 0


def check(what, ours, theirs, tolerance=TOLERANCE):
    global passed, failed
    apart = numpy.abs(numpy.asarray(ours, dtype=float) - numpy.asarray(theirs, dtype=float)).max()
    if apart <= tolerance:
        passed += 1
    else:
        failed += 1
    print(f"{what:55} {'equal to' if apart <= tolerance else 'DIFFERENT by'} {apart:.1e}")


def pixels(path):
    """Of a prepared picture, averaged down to 32×32: values of 0 to 1."""
    picture = numpy.asarray(Image.open(artifacts / "prepare" / path), dtype=numpy.float64) / 255
    block = len(picture) // 32
    return picture.reshape(32, block, 32, block, 3).mean(axis=(1, 3)).ravel()


def neighbours(k, queries, gallery, same, vectors):
    """Ids of the k nearest by scikit-learn, (queries, k); where queries are in the gallery, without themselves."""
    search = NearestNeighbors(n_neighbors=k + same, algorithm="brute").fit(vectors[gallery])
    found = gallery[search.kneighbors(vectors[queries], return_distance=False)]
    if not same:
        return found
    # The query is left out by its id, whatever its rank.
    return numpy.array([[id for id in row if id != query][:k] for query, row in zip(queries, found)])


pictures = numpy.array([pixels(path) for path in paths])
with (reports / "queries.csv").open() as file:
    rows = [row for row in csv.DictReader(file) if row["run"] == results["run"]]

for name, gallery in [("test-vs-train", train), ("test-vs-test", test)]:
    ours, same = results["protocols"][name], name == "test-vs-test"
    metrics = {metric: score["value"] for metric, score in ours["metrics"].items()}
    most = max(numpy.bincount(labels[gallery]).max(), 50)
    found = neighbours(min(most, len(gallery) - same), test, gallery, same, vectors)
    hits = labels[found] == labels[test, None]

    # Their own search by torch, and their own arithmetic.
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"), k="max_bin_count",
        knn_func=lambda query, k, reference, own: by_scikit_learn(k, same),
    )

    def by_scikit_learn(k, same):
        at = numpy.searchsorted(gallery, neighbours(k, test, gallery, same, vectors))
        distances = pairwise_distances(vectors[test], vectors[gallery])
        return torch.from_numpy(numpy.take_along_axis(distances, at, 1)), torch.from_numpy(at)

    tensor = lambda ids: torch.from_numpy(vectors[ids])
    theirs = calculator.get_accuracy(
        tensor(test), torch.from_numpy(labels[test].astype(numpy.int64)), tensor(gallery),
        torch.from_numpy(labels[gallery].astype(numpy.int64)), ref_includes_query=same,
    )
    for metric, of_theirs in [("precision@1", "precision_at_1"), ("r-precision", "r_precision"),
                              ("map@r", "mean_average_precision_at_r")]:
        check(f"{name} {metric}, pytorch-metric-learning", metrics[metric], theirs[of_theirs])

    check(f"{name} precision@5, scikit-learn", metrics["precision@5"], hits[:, :5].mean())
    check(f"{name} hit@5, scikit-learn", metrics["hit@5"], hits[:, :5].any(axis=1).mean())
    for point in ours["precision@k"]:
        if point["k"] in (1, 2, 5, 10, 20, 50):
            check(f"{name} precision@{point['k']} of the curve", point["value"], hits[:, : point["k"]].mean())
    known = sorted(names)
    theirs = confusion_matrix(numpy.repeat(labels[test], 5), labels[found[:, :5]].ravel(), labels=known)
    check(f"{name} confusion matrix, scikit-learn", ours["confusion"]["counts"], theirs)
    assert ours["confusion"]["classes"] == [names[label] for label in known]
    for row in ours["classes"]:
        of_class = numpy.array([names[label] == row["label_name"] for label in labels[test].tolist()])
        check(f"{name} precision@5 of {row['label_name']}", row["value"], hits[of_class, :5].mean())
    raw = neighbours(5, test, gallery, same, pictures)
    reached = ours["baselines"]["raw pixels"]["precision@5"]["value"]
    check(f"{name} precision@5 of raw pixels, scikit-learn", reached, (labels[raw] == labels[test, None]).mean())
    distances = pairwise_distances(vectors[test], vectors[gallery])
    alike, others = labels[test, None] == labels[gallery], test[:, None] != gallery
    edges = ours["distances"]["width"] * numpy.arange(len(ours["distances"]["same"]) + 1)
    histograms = [numpy.histogram(distances[kind & others], edges)[0] for kind in (alike, ~alike)]
    overlap = numpy.minimum(*(counts / counts.sum() for counts in histograms)).sum()
    # A distance next to an edge may round to either side.
    check(f"{name} overlap of distances", ours["distances"]["overlap"], overlap, 1e-4)
    times = numpy.bincount(found[:, :10].ravel(), minlength=len(labels))[gallery]
    check(f"{name} hubness, histogram", ours["hubness"]["histogram"], numpy.bincount(times))
    deviation = times.std()
    check(f"{name} hubness, skewness", ours["hubness"]["skewness"], ((times - times.mean()) ** 3).mean() / deviation**3)
    by_query = {row["path"]: float(row["precision@5"]) for row in rows if row["protocol"] == name}
    check(f"{name} precision@5 of every query", [by_query[paths[id]] for id in test], hits[:, :5].mean(axis=1))

print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
