"""Hostile servers and archives: `data fetch` from a server on this machine that does everything wrong."""
import gzip
import http.server
import io
import os
import random
import signal
import socketserver
import struct
import subprocess
import tarfile
import threading
import time

from trial import ROOT, Try, require, short

PROMISE = """Whatever a server sends, `data fetch` ends with the original files or with one line that says what is wrong; nothing is
written outside its folder, nothing but a part that a later fetch goes on from stays behind, and memory stays bounded. A fetch that
is killed goes on at the next one and leaves the data set alone."""
QUICK = 16
SOURCE = ROOT / "data/fashion-mnist"
# The one archive that the server has; the other files are there already.
NAME = "t10k-labels-idx1-ubyte.gz"
# Time of the file within, as the authors' archive has it; the repository's copy is the same without time and name.
PACKED_AT = 1504176627
CODES = {65, 69}
# More than any of these takes: twenty times the largest file.
MEMORY_KIB = 1 << 20


def authors_archive():
    """The bytes that `data fetch` expects."""
    packed = (SOURCE / NAME).read_bytes()
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", PACKED_AT) + b"\x00\x03"
    return header + NAME.removesuffix(".gz").encode() + b"\0" + packed[10:]


class Server:
    """A web server in a thread that treats the first requests in turn as `manners` say, and all later ones as the last."""

    def __init__(self, content, manners):
        outer, self.content, self.manners, self.requests = self, content, list(manners), 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                manner = outer.manners[min(outer.requests, len(outer.manners) - 1)]
                outer.requests += 1
                self.close_connection = True
                try:
                    manner(self, outer.content)
                except OSError:
                    pass  # The other end has heard enough.

            def log_message(self, *_):
                pass

        class Threaded(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Threaded(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def head(handler, status, length=None, **headers):
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Connection", "close")
    handler.end_headers()


def whole(handler, content):
    wanted = handler.headers.get("Range")
    if wanted:
        first = int(wanted.removeprefix("bytes=").split("-")[0])
        head(handler, 206, len(content) - first, Content_Range=f"bytes {first}-{len(content) - 1}/{len(content)}")
        handler.wfile.write(content[first:])
    else:
        head(handler, 200, len(content))
        handler.wfile.write(content)


def cut(share):
    def manner(handler, content):
        wanted = handler.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        rest = content[first:]
        more = {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if wanted else {}
        head(handler, 206 if wanted else 200, len(rest), **more)
        handler.wfile.write(rest[: max(1, int(share * len(rest)))])

    return manner


def slow(handler, content):
    head(handler, 200, len(content))
    for i in range(0, len(content), 256):
        handler.wfile.write(content[i:i + 256])
        handler.wfile.flush()
        time.sleep(0.02)


def status(code):
    return lambda handler, content: head(handler, code, 0)


def length(count):
    def manner(handler, content):
        head(handler, 200, count)
        handler.wfile.write(content)

    return manner


def no_range(handler, content):
    head(handler, 200, len(content))
    handler.wfile.write(content)


def wrong_range(handler, content):
    head(handler, 206, len(content), Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.wfile.write(content)


def flipped(handler, content):
    whole(handler, content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])


def circle(handler, content):
    head(handler, 302, 0, Location="/around" + handler.path)


def elsewhere(location):
    return lambda handler, content: head(handler, 302, 0, Location=location)


def endless(handler, content):
    head(handler, 200)
    piece = bytes(1 << 16)
    while True:
        handler.wfile.write(piece)


def chunked_without_end(handler, content):
    head(handler, 200, Transfer_Encoding="chunked")
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def headers_without_end(handler, content):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for i in range(1 << 20):
        handler.wfile.write(b"X-%d: %s\r\n" % (i, b"x" * 1000))


def one_long_header(handler, content):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1 << 10):
        handler.wfile.write(b"x" * (1 << 16))


def no_http(handler, content):
    handler.wfile.write(b"\x1b[2Jthis is no HTTP\r\n\r\n")


def nothing(handler, content):
    pass


def packed(handler, content):
    squeezed = gzip.compress(content)
    head(handler, 200, len(squeezed), Content_Encoding="gzip")
    handler.wfile.write(squeezed)


def bomb(handler, content):
    squeezed = gzip.compress(bytes(256 << 20), 1)
    head(handler, 200, len(squeezed), Content_Encoding="gzip")
    handler.wfile.write(squeezed)


def web_page(handler, content):
    page = b"<html>Please log in to the network</html>"
    head(handler, 200, len(page), Content_Type="text/html")
    handler.wfile.write(page)


def escape(handler, content):
    handler.wfile.write(b"HTTP/1.1 404 \x1b[31mNot\x07 Found\r\nContent-Length: 0\r\n\r\n")


# Name: how the server treats each request, and if the set is whole at the end (None: either).
MANNERS = {
    "whole": ([whole], True),
    "cut-and-whole": ([cut(0.5), cut(0.5), whole], True),
    "cut-at-every-byte-but-one": ([cut(0.9)] * 3 + [whole], True),
    "cut-and-no-range": ([cut(0.5), no_range], True),
    "cut-and-wrong-range": ([cut(0.5), wrong_range, whole], True),
    "cut-and-refused": ([cut(0.5), status(416), whole], True),
    "busy-and-whole": ([status(503), whole], True),
    "slow": ([slow], True),
    "redirected": ([elsewhere("/other/place"), whole], True),
    "longer-body": ([lambda handler, content: whole(handler, content)], True),
    "shorter-length": ([length(17)], False),
    "huge-length": ([length(1 << 62)], False),
    "negative-length": ([length(-1)], None),
    "no-number-length": ([length("many")], None),
    "flipped": ([flipped], False),
    "circle": ([circle], False),
    "to-itself": ([lambda handler, content: head(handler, 302, 0, Location=handler.path)], False),
    "to-a-file": ([elsewhere("file:///etc/passwd")], False),
    "to-nowhere": ([elsewhere("http://127.0.0.1:1/")], False),
    "to-no-address": ([elsewhere("http://[/")], False),
    "not-found": ([status(404)], False),
    "forbidden": ([status(403)], False),
    "no-content": ([status(204)], False),
    "not-modified": ([status(304)], False),
    "broken": ([status(500)], False),
    "endless": ([endless], False),
    "chunked-without-end": ([chunked_without_end], False),
    "headers-without-end": ([headers_without_end], False),
    "one-long-header": ([one_long_header], False),
    "no-http": ([no_http], False),
    "nothing": ([nothing], False),
    "packed-on-the-way": ([packed], None),
    "bomb": ([bomb], False),
    "web-page": ([web_page], False),
    "escape-sequences": ([escape], False),
}
KILLS = 12


def start(folder):
    """The set with one file missing, in `folder`/sets."""
    (folder / "sets/fashion-mnist").mkdir(parents=True)
    for path in SOURCE.glob("*.gz"):
        if path.name != NAME:
            (folder / "sets/fashion-mnist" / path.name).symlink_to(path)


def fetch_line(url, name="fashion-mnist"):
    return f"data fetch {name} --url {url} --out sets"


def whole_set(folder):
    names = sorted(path.name for path in (folder / "sets/fashion-mnist").iterdir())
    got = folder / "sets/fashion-mnist" / NAME
    plain = got.with_suffix("")
    content = plain.read_bytes() if plain.exists() else gzip.decompress(got.read_bytes()) if got.exists() else b""
    require(len(names) == 4, f"the set's folder holds {names}")
    require(content == gzip.decompress((SOURCE / NAME).read_bytes()), f"{NAME} is not the original")


def left_over(folder):
    """Names in the folder of sets beside the set."""
    return sorted(path.name for path in (folder / "sets").iterdir() if path.name != "fashion-mnist")


def tries(battery, folder):
    made = [Try(name, treated(battery, manners, ends_whole)) for name, (manners, ends_whole) in MANNERS.items()]
    made += [Try(f"random-{i}", random_server(battery)) for i in range(1, 21)]
    made += [Try(f"killed-{i}", killed(battery)) for i in range(1, KILLS + 1)]
    return made + [Try(f"archive-{name}", archive(battery, make)) for name, make in ARCHIVES.items()]


def limited(battery, folder, line):
    """Runs the line with an upper limit on its memory, far above what a fetch takes."""
    return battery.run(folder, line, prefix=["sh", "-c", f'ulimit -v {MEMORY_KIB}; exec "$@"', "limited"])


def treated(battery, manners, ends_whole):
    def attempt(place, draw):
        start(place)
        with Server(authors_archive(), manners) as server:
            done = limited(battery, place, fetch_line(server.url))
            judge(battery, place, done, ends_whole)
        with Server(authors_archive(), [whole]) as server:
            battery.run(place, fetch_line(server.url)).well()
            whole_set(place)
        require(not left_over(place), f"left over at the end: {left_over(place)}")
        return {"ended_well" if done.code == 0 else "refused": 1}

    return attempt


def judge(battery, place, done, ends_whole):
    # Progress is shown on stderr before the last line.
    require("panicked" not in done.err and done.code in CODES | {0}, str(done))
    require(ends_whole is None or (done.code == 0) == ends_whole, f"unexpected: {done}")
    others = sorted(path.name for path in place.iterdir() if path.name != "sets")
    require(not others, f"written outside the folder: {others}")
    if done.code == 0:
        whole_set(place)
        require(not left_over(place), f"left over: {left_over(place)}")
        return
    last = done.err.strip().splitlines()[-1]
    require(last.startswith("samcore: ") and last.isprintable(), f"not one plain line: {short(last)!r}")
    require(left_over(place) in ([], [f"{NAME}.part"]), f"left over: {left_over(place)}")


def random_server(battery):
    """Many manners one after the other."""

    def attempt(place, draw):
        start(place)
        friendly = [cut(draw.random()), cut(draw.random()), no_range, wrong_range, status(416), slow, whole]
        hostile = [status(404), flipped, circle, length(5), web_page, nothing, no_http, packed]
        for _ in range(draw.randrange(1, 4)):
            manners = draw.choices(friendly, k=3) + draw.choices(hostile, k=1)
            with Server(authors_archive(), manners) as server:
                judge(battery, place, limited(battery, place, fetch_line(server.url)), None)
        with Server(authors_archive(), [whole]) as server:
            battery.run(place, fetch_line(server.url)).well()
        whole_set(place)
        require(not left_over(place), f"left over at the end: {left_over(place)}")
        return {"servers": 1}

    return attempt


def killed(battery):
    """Several fetches killed at random moments, and one that nobody kills."""

    def attempt(place, draw):
        start(place)
        with Server(authors_archive(), [draw.choice([whole, slow])]) as server:
            for _ in range(draw.randrange(1, 4)):
                process = subprocess.Popen(battery.command(fetch_line(server.url)), cwd=place, env=battery.environment(),
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                if draw.random() < 0.5:
                    time.sleep(draw.uniform(0, 1.5))
                else:
                    # When the archive is whole, but not yet unpacked.
                    while process.poll() is None and not (place / "sets" / NAME).exists():
                        time.sleep(0.0002)
                process.send_signal(signal.SIGKILL)
                process.wait()
            battery.run(place, fetch_line(server.url)).well()
        whole_set(place)
        require(not left_over(place), f"left over after kills: {left_over(place)}")
        return {"chains_of_kills": 1}

    return attempt


def tar_of(*members):
    """A .tar.gz with members of the given names and kinds."""
    packed_bytes = io.BytesIO()
    with tarfile.open(fileobj=packed_bytes, mode="w:gz") as archive_file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive_file.addfile(info, io.BytesIO(content))
    return packed_bytes.getvalue()


ARCHIVES = {
    "parent": lambda: tar_of(("../evil", tarfile.REGTYPE, b"x"), ("cifar-10-batches-bin/../../evil", tarfile.REGTYPE, b"x")),
    "absolute": lambda: tar_of(("/tmp/samcore-battery-evil", tarfile.REGTYPE, b"x")),
    "links": lambda: tar_of(*((f"cifar-10-batches-bin/data_batch_{i}.bin", tarfile.SYMTYPE, b"") for i in range(1, 6))),
    "devices": lambda: tar_of(*((f"cifar-10-batches-bin/data_batch_{i}.bin", tarfile.CHRTYPE, b"") for i in range(1, 6))),
    "bomb": lambda: gzip.compress(bytes(512 << 20), 1),
    "garbage": lambda: random.Random(7).randbytes(5000),
    "empty": lambda: b"",
}


def archive(battery, make):
    """An archive that somebody has put in place of a download; its hash is not the original's."""

    def attempt(place, draw):
        (place / "sets").mkdir()
        content = make()
        (place / "sets/cifar-10-binary.tar.gz").write_bytes(content)
        done = limited(battery, place, fetch_line("http://127.0.0.1:1", "cifar-10"))
        battery.answered(done, CODES)
        found = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
        require(found == ["sets", "sets/cifar-10-binary.tar.gz"], f"the folder holds {found}")
        require((place / "sets/cifar-10-binary.tar.gz").read_bytes() == content, "the archive has changed")
        require(not os.path.exists("/tmp/samcore-battery-evil"), "written outside the folder")
        return {"archives_refused": 1}

    return attempt
