"""A server with the layout of the public mirrors, which misbehaves on request, and small datasets to put there."""

import hashlib
import http.server
import threading
import urllib.parse
from email.utils import formatdate

from tests.support.archives import tar

LABELS = ("abseiling", "air drumming", "yoga")


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `files` by path, with ETags and ranges; `moods` are said by path, and `asked` keeps what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moods: dict[str, str] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.hanging = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        return [path for method, path, _ in self.asked if method == "GET"]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, server = urllib.parse.unquote(self.path), self.server
        asked, mood = self.headers.get("Range"), server.moods.get(path, "")
        server.asked.append((self.command, path, asked))
        if path not in server.files or "500" in mood:
            if "once" in mood:
                server.moods[path] = ""
            self.send_error(500 if "500" in mood else 404)
            return
        body, tag = server.files[path], f'"{hash(server.files[path])}"'
        same = self.headers.get("If-Range") in (tag, None)
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            short = "cut" in mood or "hang" in mood
            self.wfile.write(body[first : len(body) // 2] if short else body[first:])
            if "hang" in mood:
                server.hanging.set()
                self.rfile.read(1)  # until the client goes away
            if "once" in mood:
                server.moods[path] = ""


def name(split: str, label: int, index: int) -> str:
    return f"{split[0]}{label}-_{index:02d}abcde_{index:06d}_{index + 10:06d}.mp4"


def content(split: str, label: int, index: int) -> bytes:
    return hashlib.shake_128(f"{split} {label} {index}".encode()).digest(2000 + label)


def fill(mirror, base, folder, make, count=4) -> None:
    folder.mkdir(exist_ok=True)
    for split in ("train", "val"):
        rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
        parts = [[], [], []]
        for index in range(count):
            for label, text in enumerate(LABELS):
                stem = name(split, label, index)
                rows.append(f'"{text}",{stem[:11]},{index},{index + 10},{split},0')
                parts[index % 3].append((f"./{stem}", make(split, label, index)))
        mirror.files[f"{base}/annotations/{split}.csv"] = "\n".join([*rows, ""]).encode()
        for number, members in enumerate(parts):
            put(mirror, f"{base}/{split}/part_{number}.tar.gz", members, folder)
        lines = [f"https://s3.amazonaws.com/kinetics{base}/{split}/part_{number}.tar.gz" for number in range(3)]
        mirror.files[f"{base}/{split}/k{base[1:]}_{split}_path.txt"] = "\n".join([*lines, ""]).encode()


def put(mirror, path, members, folder, make=tar) -> None:
    make(folder / "archive", members)
    mirror.files[path] = (folder / "archive").read_bytes()
