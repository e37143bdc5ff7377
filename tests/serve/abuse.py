"""Full load and abuse of `similiai serve` at once, on this machine's own loopback: good uploads must still be answered,
and memory, threads and files must not grow.

Usage: python3 tests/serve/abuse.py SIMILIAI [SECONDS], in a folder with a trained pipeline (default 300 seconds)
"""

import sys

import environment

if len(sys.argv) < 2:
    sys.exit(__doc__)
environment.enter()

import collections
import http.client
import io
import os
import random
import resource
import socket
import statistics
import struct
import threading
import time
import zlib

from PIL import Image

SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 300.0
IDLE, SLOW, GOOD = 1000, 100, 8
# Open files for connections that just end, and for the pipes of workers that were started since.
WORKERS = 2 + 2 * (os.cpu_count() + 1)
SLOWLY = ["heads sent slowly", "bodies sent slowly", "answers not taken"]
RANDOM = random.Random(1)


def encoded(kind, size, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def noise(kind, side):
    image = Image.frombytes("RGB", (side, side), RANDOM.randbytes(3 * side * side))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png(width, height, *chunks, depth=8, color=2):
    """A PNG that claims a size; its chunks are as given."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in [(b"IHDR", head), *chunks, (b"IEND", b"")])


def jpeg_claiming(side):
    """A small JPEG whose frame header claims another size."""
    whole = bytearray(encoded("JPEG", (16, 16)))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(whole)


def webp_claiming(side):
    """A small lossless WebP whose header claims another size."""
    whole = bytearray(encoded("WEBP", (16, 16), lossless=True))
    at = whole.index(b"VP8L") + 9
    bits = int.from_bytes(whole[at : at + 4], "little")
    whole[at : at + 4] = ((bits >> 28 << 28) | (side - 1) << 14 | (side - 1)).to_bytes(4, "little")
    return bytes(whole)


def webp_of_groups(groups):
    """A lossless WebP of 16 × 16 pixels whose blocks all name the last of so many groups of prefix codes, each with a tree
    of 2,048 codes, which its decoder keeps (RFC 9649, sections 3.6 and 3.7)."""
    bits = []

    def number(value, count):
        bits.extend(value >> bit & 1 for bit in range(count))

    def one_symbol(symbol):
        number(0b01, 2)
        number(0 if symbol < 2 else 1, 1)
        number(symbol, 1 if symbol < 2 else 8)

    def code(text):
        bits.extend(map(int, text))

    number(0x2F, 8), number(15, 14), number(15, 14), number(0, 4)
    number(0, 1), number(1, 1), number(11, 4), number(1, 1), number(0, 3), number(0, 1)
    for symbol in [groups - 1 & 255, groups - 1 >> 8, 0, 0, 0]:
        one_symbol(symbol)
    head, bits = bits, []
    number(0, 1), number(11, 4)
    for symbol in [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11]:
        number({18: 2, 16: 1, 11: 2}.get(symbol, 0), 3)
    number(0, 1), code("10")
    for _ in range(341):
        code("0"), number(3, 2)
    code("10")
    for run in [138, 131, 11]:
        code("11"), number(run - 11, 7)
    for _ in range(4):
        one_symbol(0)
    bits = head + groups * bits + [0] * (11 * 256 + 64)
    bits += [0] * (-len(bits) % 16)
    data = bytes(sum(bits[at + bit] << bit for bit in range(8)) for at in range(0, len(bits), 8))
    chunk = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


def deflated(megabytes):
    squeeze = zlib.compressobj(9)
    return b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(megabytes)) + squeeze.flush()


TINY = (b"IDAT", zlib.compress(bytes(8 * 25)))
MOVING = {"save_all": True, "append_images": [Image.new("RGB", (5000, 5000), color) for color in ["red", "white"]]}
# Each with the statuses that it may get; 503 is always one of them.
BOMBS = {
    "PNG, 12 million deep pixels": (png(3500, 3500, (b"IDAT", deflated(99)), depth=16, color=6), {200}),
    "PNG, 25 million deep pixels": (png(5000, 5000, (b"IDAT", deflated(201)), depth=16, color=6), {413}),
    "WebP, 25 million, moving": (encoded("WEBP", (5000, 5000), lossless=True, **MOVING), {200}),
    "PNG, 25 million black pixels": (encoded("PNG", (5000, 5000)), {200}),
    "PNG, 25 million pixels with alpha": (encoded("PNG", (5000, 5000), "RGBA"), {200}),
    "PNG, 26 million pixels": (encoded("PNG", (5200, 5000)), {413}),
    "PNG that claims 3,600 million": (png(60_000, 60_000, (b"IDAT", deflated(64))), {413}),
    "PNG, less than it claims": (png(5000, 5000, (b"IDAT", deflated(1))), {422}),
    "PNG, text of 500 MB": (png(8, 8, (b"zTXt", b"a\0\0" + deflated(500)), TINY), {200, 422}),
    "PNG, profile of 500 MB": (png(8, 8, (b"iCCP", b"a\0\0" + deflated(500)), TINY), {200, 422}),
    "JPEG, 25 million pixels": (encoded("JPEG", (5000, 5000)), {200}),
    "JPEG, 25 million, progressive": (encoded("JPEG", (5000, 5000), progressive=True), {200}),
    "JPEG that claims 4,290 million": (jpeg_claiming(65_500), {413}),
    "JPEG, less than it claims": (jpeg_claiming(5000), {200, 422}),
    "WebP, 25 million pixels": (encoded("WEBP", (5000, 5000), lossless=True), {200}),
    "WebP that claims 268 million": (webp_claiming(16_384), {413, 422}),
    "WebP, less than it claims": (webp_claiming(5000), {200, 422}),
    "WebP, 16,000 groups": (webp_of_groups(16_000), {422}),
}
WHOLE = [noise(kind, 64) for kind in ["PNG", "JPEG", "WEBP"]]

answers = collections.defaultdict(collections.Counter)
wrong = []
latencies = []
ends = 0.0


def running():
    return time.monotonic() < ends


def post(connection, body):
    connection.request("POST", "/api/search?k=5", body, {"content-type": "application/octet-stream"})
    response = connection.getresponse()
    response.read()
    return response.status


def told(what, status, allowed):
    answers[what][status] += 1
    if status not in allowed and status != 503:
        wrong.append(f"{what}: {status}")


def uploads(what, make, allowed, patient=False):
    """Uploads until the end; a connection that is cut is opened again."""
    def run(port):
        while running():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                while running():
                    start = time.monotonic()
                    status = post(connection, make())
                    told(what, status, allowed)
                    if patient:
                        if status == 503:
                            time.sleep(0.05)
                        else:
                            latencies.append(time.monotonic() - start)
            except (OSError, http.client.HTTPException) as error:
                answers[what][type(error).__name__] += 1
            finally:
                connection.close()

    return run


def cut():
    whole = RANDOM.choice(WHOLE)
    return whole[: RANDOM.randrange(1, len(whole) - 40)]


def bombs(port):
    names = list(BOMBS)
    while running():
        name = RANDOM.choice(names)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            told(name, post(connection, BOMBS[name][0]), BOMBS[name][1])
        except (OSError, http.client.HTTPException) as error:
            answers[name][type(error).__name__] += 1
        finally:
            connection.close()


def opened(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setblocking(False)
    return connection


def send(connection, data):
    """Whether the other side still takes something."""
    try:
        if data:
            connection.send(data)
        # An end, or an answer before it, is there to be read; what is not taken is only looked at.
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


START = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
HEAD = START + b"Content-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"


def hold(what, count, first, more, pause):
    """Keeps so many connections open, each saying `more` now and then; those that are dropped are opened again."""
    def run(port):
        held = []
        while running():
            while len(held) < count and running():
                try:
                    connection = opened(port)
                except OSError:
                    answers[what]["refused"] += 1
                    break
                send(connection, first)
                held.append(connection)
            time.sleep(pause)
            stay = [connection for connection in held if send(connection, more)]
            answers[what]["dropped"] += len(held) - len(stay)
            for connection in set(held) - set(stay):
                connection.close()
            held = stay
        answers[what]["held"] = len(held)
        for connection in held:
            connection.close()

    return run


def rude(port):
    """What is no HTTP, or breaks off."""
    kinds = [
        lambda: RANDOM.randbytes(2000),
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        lambda: b"GET /" + b"%41" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: HEAD + RANDOM.randbytes(5000),
        lambda: START + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\nabc",
        lambda: START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        lambda: START + FORM + b"Content-Length: 40\r\n\r\n--x\r\n" + b"a" * 35,
    ]
    while running():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(RANDOM.choice(kinds)())
                connection.shutdown(socket.SHUT_WR)
                first = connection.recv(4096)[:12].decode("latin1")
                answers["no HTTP, or broken off"][first[9:] or "closed"] += 1
                if first[9:10] == "5" and first[9:] != "503":
                    wrong.append(f"no HTTP, or broken off: {first}")
        except OSError as error:
            answers["no HTTP, or broken off"][type(error).__name__] += 1


def endless(port):
    """A chunked upload that never ends."""
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while running():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(2000):
                    connection.sendall(piece)
                wrong.append("130 MB were taken of an endless upload")
        except OSError:
            answers["endless upload"]["cut off"] += 1


def main():
    global ends
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with environment.Server(sys.argv[1]) as server:
        warm = http.client.HTTPConnection("127.0.0.1", server.port)
        assert post(warm, WHOLE[0]) == 200
        warm.close()
        before = (server.megabytes(), server.threads(), server.files())
        ends = time.monotonic() + SECONDS
        # Every request is in HTTP's words but for `rude`; `hold` speaks slowly.
        jobs = [uploads("good uploads", lambda: RANDOM.choice(WHOLE), {200}, patient=True)] * GOOD
        jobs += [uploads("random bytes", lambda: RANDOM.randbytes(RANDOM.randrange(1, 200_000)), {415, 422})] * 2
        jobs += [uploads("truncated pictures", cut, {415, 422})] * 2
        jobs += [uploads("21 MB", lambda: bytes(21_000_000), {413}), bombs, bombs, rude, endless]
        jobs += [
            hold("idle connections", IDLE, b"", b"", 1.0),
            hold(SLOWLY[0], SLOW, b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n", 1.0),
            hold(SLOWLY[1], SLOW, HEAD, b"z", 1.0),
            hold(SLOWLY[2], SLOW, b"GET /report HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8, b"\r\n", 1.0),
        ]
        threads = [threading.Thread(target=job, args=(server.port,)) for job in jobs]
        for thread in threads:
            thread.start()
        memory = []
        while running():
            time.sleep(min(1.0, SECONDS / 30))
            assert server.process.poll() is None, "the server has ended"
            memory.append(server.megabytes())
        for thread in threads:
            thread.join()
        report(server, before, memory)


def report(server, before, memory):
    for what, said in sorted(answers.items()):
        print(f"{what:36} " + ", ".join(f"{count} × {status}" for status, count in sorted(said.items(), key=str)))
    good = answers["good uploads"]
    print(f"good uploads: {len(latencies)} in {SECONDS:.0f} s, median {1e3 * statistics.median(latencies):.0f} ms, "
          f"99 % below {1e3 * statistics.quantiles(latencies, n=100)[98]:.0f} ms")
    # The last third against what is usual before; in the first sixth, all that is kept for later is taken.
    share = len(memory) / 6
    sixths = [statistics.median(memory[round(share * part) : round(share * (part + 1))]) for part in range(6)]
    early, late = statistics.median(sixths[1:4]), statistics.mean(sixths[4:])
    print(f"memory: {before[0]:.0f} MB before; {' '.join(f'{part:.0f}' for part in sixths)} MB in each sixth, "
          f"{server.megabytes('VmHWM'):.0f} MB at most")
    # What was dropped needs a moment to be gone.
    for _ in range(300):
        if server.files() <= before[2] + WORKERS:
            break
        time.sleep(0.1)
    after = (server.megabytes(), server.threads(), server.files())
    print(f"threads {before[1]} → {after[1]}, files {before[2]} → {after[2]}, memory at the end {after[0]:.0f} MB")
    last = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    checks = {
        "no answer but those foreseen": not wrong,
        "good uploads are answered": good[200] > SECONDS and set(good) <= {200, 503},
        "memory does not grow": late <= 1.1 * early + 10,
        "slow connections are dropped": SECONDS < 60 or all(answers[what]["dropped"] for what in SLOWLY),
        "connections are closed again": after[2] <= before[2] + WORKERS,
        "threads do not grow": after[1] <= before[1] + 8,
        "it still answers": post(last, WHOLE[1]) == 200,
    }
    for name in sorted(set(wrong)):
        print(f"unforeseen: {name} ({wrong.count(name)} times)")
    failed = [name for name, held in checks.items() if not held]
    print(f"{len(checks) - len(failed)} passed, {len(failed)} failed")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


main()
