"""Fetching files from a server that misbehaves."""

import contextlib
import hashlib
import http.server
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from r2plus1d.datasets import fetch
from r2plus1d.datasets.catalogue import Part
from r2plus1d.system import files
from tests.support.server import started

CONTENT = np.random.default_rng(0).bytes(3_000_000)
NAME = f"weights_20200729-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under every path; `mood` says how it misbehaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood, self.asked, self.target, self.tag, self.seen = "", [], "", None, []
        self.url = f"http://127.0.0.1:{self.server_port}/some/folder/{NAME}"

    def shutdown_request(self, request):
        if "reset" in self.mood:
            self.close_request(request)  # without a word
        else:
            super().shutdown_request(request)


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        server.seen.append(dict(self.headers))
        if self.headers.get("If-Range", server.tag) != server.tag and "ignores" not in server.mood:
            asked = None
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and "no ranges" not in server.mood else 0
        if any(word in server.mood for word in ("headers", "endless", "lies")):
            self.harm()
        elif "refuse" in server.mood or ("busy once" in server.mood and len(server.asked) == 1):
            self.send_error(404 if "refuse" in server.mood else 503)
        elif "redirect" in server.mood:
            self.send_response(302)
            self.send_header("Location", server.target)
            self.end_headers()
        elif first >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
        else:
            body = bytes(len(CONTENT)) if "wrong bytes" in server.mood else CONTENT
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first + 9 * ("wrong length" in server.mood)))
            if "says gzip" in server.mood:
                self.send_header("Content-Encoding", "gzip")
            if server.tag:
                self.send_header("ETag" if server.tag.startswith('"') else "Last-Modified", server.tag)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            cut = "cut always" in server.mood or ("cut once" in server.mood and len(server.asked) == 1)
            if "reset" in server.mood and len(server.asked) <= 8:
                self.wfile.write(body[first : first + 200_000])
                time.sleep(0.02)  # until that was read: a reset takes what was not
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            self.wfile.write(body[first : first + 1_500_000] if cut else body[first:])
            if cut:
                self.connection.close()

    def harm(self):
        """A client that believes what comes runs out of memory, disk or time."""
        mood = self.server.mood
        self.send_response(200)
        if "headers" in mood:
            for number in range(1000 if "many" in mood else 1):
                self.send_header(f"X-{number}", "x" * (10 if "many" in mood else 10_000_000))
        elif "lies" in mood:
            self.send_header("Content-Length", self.server.target)
        with contextlib.suppress(OSError):  # the client hangs up
            self.end_headers()
            self.wfile.write(CONTENT)
            while "endless" in mood:
                self.wfile.write(CONTENT)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    running = Server()
    with started(running):
        yield running


def left(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


@pytest.mark.parametrize("mood", ["", "cut once", "busy once", "cut once, no ranges", "reset", "says gzip"])
def test_file_arrives_whole_from_a_shaky_server(server, tmp_path, mood):
    server.mood = mood
    path = fetch.fetch(server.url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]


def test_file_is_fetched_once_by_all_that_need_it_at_the_same_time(server, tmp_path, capsys):
    with ThreadPoolExecutor(1) as threads:
        with files.held(tmp_path / f".{NAME}.part.lock", "the file"):
            other = threads.submit(fetch.fetch, server.url, tmp_path)
            while "; waiting" not in (said := capsys.readouterr().err):
                time.sleep(0.01)
            (tmp_path / NAME).write_bytes(CONTENT)
        assert other.result().read_bytes() == CONTENT
    assert f"{NAME} is busy: process {os.getpid()} on " in said
    assert server.asked == []


def test_file_that_is_there_is_fetched_once(server, tmp_path):
    fetch.fetch(server.url, tmp_path)
    fetch.fetch(server.url, tmp_path)
    assert len(server.asked) == 1


def test_interrupted_file_is_fetched_from_where_it_stopped(server, tmp_path):
    server.mood = "cut once"
    fetch.fetch(server.url, tmp_path)
    first, second = server.asked
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) < len(CONTENT)


def test_server_without_an_address_is_told_at_once_and_in_words(server, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch("https://nowhere.invalid/a.pth", tmp_path)
    said = "the server's name has no address (is there a network?)"
    assert str(error.value).startswith(f"https://nowhere.invalid/a.pth: {said}; gave up after 6 attempts")
    assert capsys.readouterr().out.splitlines() == [f"nowhere.invalid: {said}; it is tried 5 times more"]


def test_what_came_before_giving_up_is_kept(server, tmp_path):
    server.mood = "cut always, no ranges"
    with pytest.raises(fetch.FetchError, match="gave up after 6 attempts"):
        fetch.fetch(server.url, tmp_path)
    assert NAME not in left(tmp_path)
    server.mood, server.asked = "", []
    fetch.fetch(server.url, tmp_path)
    assert server.asked[0].startswith("bytes=")


def test_whole_file_left_by_an_interruption_is_taken_as_it_is(server, tmp_path):
    (tmp_path / f".{NAME}.part").mkdir()
    (tmp_path / f".{NAME}.part" / "content").write_bytes(CONTENT)
    assert fetch.fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_leftover_longer_than_the_file_is_replaced(server, tmp_path):
    (tmp_path / f".{NAME}.part").mkdir()
    (tmp_path / f".{NAME}.part" / "content").write_bytes(CONTENT + b"more")
    assert fetch.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_wrong_bytes_stay_out_of_the_cache(server, tmp_path):
    server.mood = "wrong bytes"
    with pytest.raises(fetch.FetchError, match=f"not with {NAME[-12:-4]}"):
        fetch.fetch(server.url, tmp_path)
    assert left(tmp_path) == []


def test_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
    (tmp_path / NAME).write_bytes(b"damaged")
    assert fetch.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_refusal_is_said_after_one_attempt(server, tmp_path):
    server.mood = "refuse"
    with pytest.raises(fetch.FetchError, match="HTTP status 404"):
        fetch.fetch(server.url, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "target",
    [
        "http://example.invalid/x.pth",
        "http://127.0.0.1.example.invalid/x",
        "http://localhost:x@example.invalid/x",
        "http://2130706433/x",
        "file:///etc/passwd",
        "ftp://example.invalid/x",
        "data:,x",
    ],
)
def test_redirect_away_from_https_is_refused(server, tmp_path, target):
    server.mood, server.target = "redirect", target
    with pytest.raises(fetch.FetchError, match="only https"):
        fetch.fetch(server.url, tmp_path)


@pytest.mark.parametrize(
    "target", ["https://", "https:///x", "http://[::1", "https://a..b/", "//", "/same", "\\\\x", "?"]
)
def test_redirect_to_nowhere_or_in_a_circle_is_an_error_of_the_file(server, tmp_path, monkeypatch, target):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    server.mood, server.target = "redirect", target
    with pytest.raises(fetch.FetchError, match=NAME):
        fetch.fetch(server.url, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("mood", ["many headers", "long headers"])
def test_headers_without_end_are_given_up(server, tmp_path, mood):
    server.mood = mood
    with pytest.raises(fetch.FetchError, match="gave up"):
        fetch.fetch(server.url, tmp_path)


def test_content_without_end_is_stopped_at_a_bound(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_BYTES", 1_000_000)
    server.mood = "endless"
    with pytest.raises(fetch.FetchError, match="more than 1000000 bytes"):
        fetch.fetch(server.url, tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) <= 1_000_000 + 100


@pytest.mark.parametrize("length", ["10", "-1", "9" * 5000, "1e9", "\u00b2", "3000000, 5"])
def test_length_that_lies_leaves_the_whole_file_or_none(server, tmp_path, length):
    server.mood, server.target = "lies", length
    with contextlib.suppress(fetch.FetchError):
        assert fetch.fetch(server.url, tmp_path).read_bytes() == CONTENT
    with contextlib.suppress(fetch.FetchError):
        assert fetch.remote_size(server.url) in (None, 10)
    assert left(tmp_path) in ([], [NAME])


def test_password_stays_with_the_server_it_is_for(server, tmp_path):
    other = Server()
    with started(other):
        server.mood, server.target = "redirect", other.url.replace("127.0.0.1", "localhost")
        fetch.fetch(server.url.replace("127.0.0.1", "user:secret@127.0.0.1"), tmp_path)
    assert "Authorization" in server.seen[0]
    assert other.seen
    assert not {"Authorization", "Cookie", "Referer"} & set(other.seen[0])


@pytest.fixture
def secure(server, tmp_path):
    """(the server with a certificate of its own making for `localhost`, the certificate's path)"""
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate takes openssl")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        *names,
        *files,
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace("http://127.0.0.1", "https://localhost")
    return server, tmp_path / "cert.pem"


def test_certificate_that_nobody_vouches_for_is_refused(secure, tmp_path, monkeypatch):
    server, certificate = secure
    with pytest.raises(fetch.FetchError, match="certificate is not accepted"):
        fetch.fetch(server.url, tmp_path / "to")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with pytest.raises(fetch.FetchError, match="certificate is not accepted"):
        fetch.fetch(server.url.replace("localhost", "127.0.0.1"), tmp_path / "to")
    assert server.asked == []
    assert fetch.fetch(server.url, tmp_path / "to").read_bytes() == CONTENT


def test_redirect_from_elsewhere_to_plain_http_on_this_machine_is_refused(secure, tmp_path, monkeypatch):
    server, certificate = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    here = Server()
    with started(here):
        server.mood, server.target = "redirect", here.url
        with pytest.raises(fetch.FetchError, match="only https"):
            fetch.fetch(server.url, tmp_path / "to")
    assert here.asked == []


@pytest.mark.parametrize("name", ["a%2F..%2Fb.rar", "%2e%2e%2fb.rar", "..%2F..%2Fb.rar", "b.rar"])
def test_name_of_a_part_stays_in_its_folder(name):
    assert Part(f"https://host/x/{name}", ("train", "val")).name == "b.rar"


def test_plain_http_of_another_machine_is_refused(tmp_path):
    with pytest.raises(fetch.FetchError, match="only https"):
        fetch.fetch(f"http://example.invalid/{NAME}", tmp_path)


@pytest.mark.parametrize(
    ("error", "words"), [("EOF occurred", "gave up"), ("CERTIFICATE_VERIFY_FAILED", "not accepted")]
)
def test_cut_handshake_is_tried_again_and_a_wrong_certificate_refused(server, tmp_path, monkeypatch, error, words):
    def get(*_, **__):
        raise requests.exceptions.SSLError(error)

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(fetch.FetchError, match=words):
        fetch.fetch(server.url, tmp_path)


def test_digits_of_a_published_name_are_found_and_others_left():
    url = "https://download.openmmlab.com/a-b/r2plus1d_r34_8x8x1_180e_kinetics400_rgb_20200618-3fce5629.pth"
    assert fetch.sha256_prefix(url) == "3fce5629"
    assert fetch.sha256_prefix("https://host/model-final.pth") is None
    assert fetch.sha256_prefix("https://host/my-run-20240115.pth") is None


def test_files_of_one_name_from_two_addresses_are_kept_apart(server, tmp_path):
    one, other = (server.url.replace(f"some/folder/{NAME}", f"{folder}/model.pth") for folder in "ab")
    server.mood = "wrong bytes"
    first = fetch.fetch(one, tmp_path)
    server.mood = ""
    assert fetch.fetch(other, tmp_path).read_bytes() == CONTENT
    assert first.read_bytes() == bytes(len(CONTENT))
    assert fetch.fetch(one, tmp_path) == first
    assert len(server.asked) == 2


def test_file_without_a_digest_comes_from_one_call(server, tmp_path):
    url = server.url.replace(NAME, "model.pth")
    server.mood = "cut always, no ranges"
    with pytest.raises(fetch.FetchError):
        fetch.fetch(url, tmp_path)
    server.mood, server.asked = "", []
    assert fetch.fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]


def give_up(server, tmp_path, url) -> None:
    """Leaves the first half of the file behind."""
    server.mood = "cut always, no ranges"
    with pytest.raises(fetch.FetchError):
        fetch.fetch(url, tmp_path)
    server.mood, server.asked = "", []


@pytest.mark.parametrize("tag", ['"first"', "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_file_that_stays_the_same_goes_on_in_the_next_call(server, tmp_path, tag):
    url, server.tag = server.url.replace(NAME, "part_0.tar.gz"), tag
    give_up(server, tmp_path, url)
    path = fetch.fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert fetch.recorded_sha256(path) == hashlib.sha256(CONTENT).hexdigest()
    (asked,) = server.asked
    assert asked.startswith("bytes=")


@pytest.mark.parametrize(
    ("tag", "mood"), [('"second"', ""), ('"second"', "ignores If-Range"), ('W/"first"', ""), (None, "")]
)
def test_file_comes_from_one_version(server, tmp_path, tag, mood):
    url, server.tag = server.url.replace(NAME, "part_0.tar.gz"), '"first"'
    server.mood = "wrong bytes, cut always, no ranges"
    with pytest.raises(fetch.FetchError):
        fetch.fetch(url, tmp_path)
    server.mood, server.tag = mood, tag
    assert fetch.fetch(url, tmp_path).read_bytes() == CONTENT


def test_damaged_file_without_a_digest_in_its_name_is_fetched_again(server, tmp_path):
    url = server.url.replace(NAME, "part_0.tar.gz")
    path = fetch.fetch(url, tmp_path)
    path.write_bytes(b"damaged")
    assert fetch.fetch(url, tmp_path).read_bytes() == CONTENT


def test_file_shorter_than_the_length_announced_is_given_up(server, tmp_path):
    server.mood = "wrong length"
    with pytest.raises(fetch.FetchError, match="gave up after"):
        fetch.fetch(server.url.replace(NAME, "part_0.tar.gz"), tmp_path)


def test_counting_callback_can_end_a_call_and_what_came_is_kept(server, tmp_path):
    url, server.tag, came = server.url.replace(NAME, "part_0.tar.gz"), '"first"', []

    def arrived(count: int) -> None:
        came.append(count)
        if len(came) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fetch.fetch(url, tmp_path, arrived)
    kept, again = sum(came), []
    assert fetch.fetch(url, tmp_path, again.append).read_bytes() == CONTENT
    assert server.asked[1] == f"bytes={kept}-"
    assert (again[0], sum(again)) == (kept, len(CONTENT))


def test_passwords_and_signatures_are_not_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    url = "http://me:secret@127.0.0.1:9/a.tar.gz?X-Amz-Signature=abc123&part=7"
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch(url.replace("127.0.0.1", "example.org"), tmp_path)
    assert "http://example.org:9/a.tar.gz?X-Amz-Signature=...&part=..." in str(error.value)
    assert not {"secret", "abc123"} & set(re.findall(r"\w+", str(error.value)))
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch(url, tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("127.0.0.1:9: ")
    assert not {"secret", "abc123"} & set(re.findall(r"\w+", f"{error.value} {said}"))


class Refusing(http.server.BaseHTTPRequestHandler):
    """A proxy that wants a password."""

    def do_CONNECT(self):
        self.send_error(407)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("http://127.0.0.1:9", r"Failed to establish a new connection: \[Errno 111\] Connection refused"),
        ("http://nowhere.invalid:9", "Failed to resolve 'nowhere.invalid'"),
        (None, "Tunnel connection failed: 407 Proxy Authentication Required"),
    ],
)
def test_message_names_the_proxy_where_that_is_at_fault(tmp_path, monkeypatch, proxy, reason):
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    with started(server):
        monkeypatch.setenv("HTTPS_PROXY", proxy or f"http://127.0.0.1:{server.server_port}")
        words = rf"not reached through the proxy that is set \(HTTPS_PROXY, .*\): {reason}"
        with pytest.raises(fetch.FetchError, match=words):
            fetch.fetch("https://example.org/a.pth", tmp_path)


def test_socks_proxy_without_its_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(fetch.FetchError, match=r"a SOCKS proxy is set .*: pip install 'requests\[socks\]'"):
        fetch.fetch("https://example.org/a.pth", tmp_path)
