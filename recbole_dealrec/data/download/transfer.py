"""Downloads that resume where they were interrupted."""

import hashlib
import re
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from logging import getLogger
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import CONSOLE, progress_bar

_ATTEMPTS = 6  # in a row without a new byte before the download fails
_PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 2**20


@dataclass(frozen=True)
class _File:
    """A file's description by its server.

    Attributes:
        url: address.
        size: bytes.
        version: ETag, which changes with the content, or empty.
        md5: MD5 digest, or empty if the server has none.
    """

    url: str
    size: int
    version: str
    md5: str


class _SecureRedirects(HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_url(url: str) -> None:
    """Raise InputError if an address is neither https nor http on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise InputError(f"{url}: not downloaded, because it is not https")


def _is_loopback(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


def download(url: str, folder: Path, show_progress: bool = True) -> Path:
    """Download a file, resuming an interrupted download in ``folder``, and return its path.

    The size is checked, and the MD5 sum if the server has one (as S3 does for a file uploaded in one piece).

    Args:
        url: https address.
        folder: folder of the file and of its incomplete download.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: the address is not https, the server refuses the file, the connection breaks repeatedly, or the MD5
            sum differs.
    """
    remote = _describe(url)
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2]) or "file"
    file, part = folder / name, folder / f"{name}.{_digest(remote)}.part"
    if file.is_file():
        return file
    CONSOLE.info(f"downloading {url}")
    sizes = {"total": remote.size, "initial": _size(part), "unit": "B", "unit_scale": True}
    with progress_bar(shown=show_progress, desc=name, **sizes) as bar:
        _download_rest(remote, part, bar)
    if remote.md5 and _md5(part) != remote.md5:
        part.unlink()
        raise InputError(f"{url}: the download does not have the MD5 sum that the server publishes; try again")
    return part.replace(file)


def _download_rest(remote: _File, part: Path, bar: tqdm) -> None:
    """Download the missing bytes of ``part``, in several attempts if the connection breaks."""
    failures = 0
    while (before := _size(part)) < remote.size:
        try:
            _append_bytes(remote, part, bar)
        except HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):  # timeout, too many requests
                raise InputError(f"{remote.url}: the server answers {error.code} {error.reason}") from error
        except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            getLogger().debug(f"{remote.url}: {error}")
        failures = 0 if _size(part) > before else failures + 1
        if failures == _ATTEMPTS:
            raise InputError(
                f"{remote.url}: the connection breaks repeatedly; {before} of {remote.size} bytes are there; run the "
                "same command again to resume"
            )
        if failures:
            time.sleep(_PAUSE * 2 ** (failures - 1))


def _append_bytes(remote: _File, part: Path, bar: tqdm) -> None:
    """Request the missing bytes of ``part`` and write them; a server without ranges sends the whole file."""
    have = _size(part)
    headers = {"Range": f"bytes={have}-", **({"If-Range": remote.version} if remote.version else {})} if have else {}
    with _open(Request(remote.url, headers=headers)) as response:
        position = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        bar.n = position
        with open(part, "ab" if position else "wb", buffering=0) as stream:  # unbuffered, so that a kill loses no bytes
            while position < remote.size and (chunk := response.read1(min(_CHUNK, remote.size - position))):
                stream.write(chunk)
                position += len(chunk)
                bar.update(len(chunk))


def _describe(url: str) -> _File:
    """Return the server's description of a file."""
    check_url(url)
    try:
        with _open(Request(url, method="HEAD")) as response:
            headers = response.headers
    except HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{url}: cannot be reached ({reason}); go online, or put the files into data_path") from error
    size = headers.get("Content-Length", "")
    if not size.isdecimal():
        raise InputError(f"{url}: the server does not say how large the file is")
    version = headers.get("ETag", "")
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    is_md5 = headers.get("Server") == "AmazonS3" and plain and re.fullmatch('"[0-9a-f]{32}"', version)
    return _File(url, int(size), "" if version.startswith("W/") else version, version.strip('"') if is_md5 else "")


def _open(request: Request):
    return build_opener(_SecureRedirects).open(request, timeout=_TIMEOUT)


def _digest(remote: _File) -> str:
    return hashlib.sha256(f"{remote.url} {remote.size} {remote.version}".encode()).hexdigest()[:12]


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
