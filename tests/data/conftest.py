"""A web server on this machine, and archives as RecBole publishes them."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_dealrec.data.download import transfer as downloads


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` (bytes by path) as S3 does: sizes, ranges and the MD5 sum as ETag.

    Attributes:
        breaks: numbers of bytes after which the next answers end, one an answer.
        holds: numbers of bytes after which the next answers stop, one an answer, until ``released``.
        ranges: whether it knows ranges.
        redirects: addresses by path.
        asked: (method, path, range) of each request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.breaks, self.redirects, self.asked, self.ranges = {}, [], {}, [], True
        self.etags, self.holds, self.released = {}, [], threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def etag(self, path):
        return self.etags.get(path, f'"{hashlib.md5(self.files[path]).hexdigest()}"')


class _Handler(BaseHTTPRequestHandler):
    def version_string(self):
        return "AmazonS3"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.command, self.path, wanted))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        body = server.files[self.path]
        same = self.headers.get("If-Range") in (None, server.etag(self.path))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges and same else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag(self.path))
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body and server.holds:
            self.wfile.write(body[start : start + server.holds.pop(0)])
            server.released.wait(30)
        elif with_body:
            most = server.breaks.pop(0) if server.breaks else len(body)
            self.wfile.write(body[start : start + most])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def zipped():
    """``zipped(texts)``: bytes of a zip archive with these texts by name."""

    def make(texts):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
        return stream.getvalue()

    return make
