"""Downloads that go on where they were interrupted."""

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

_ATTEMPTS = 6  # in a row that bring no byte before the download is given up
_PAUSE = 1.0  # seconds before the second attempt; twice that before the third, and so on
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 2**20


@dataclass(frozen=True)
class _Remote:
    """A file as its server describes it.

    Attributes:
        url: where it is.
        size: bytes.
        version: what changes with the content (ETag), or empty.
        md5: digest that the server publishes, or empty.
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
    """Refuse an address that others on the network could answer for.

    Raises:
        InputError: it is not https, nor http on this machine itself.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise InputError(f"{url}: not downloaded, because it is not https")


def _is_loopback(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


def download(url: str, folder: Path, show_progress: bool = True) -> Path:
    """Download a file; what an interrupted download left in ``folder`` is not downloaded again.

    The size is checked, and the MD5 sum where the server publishes one (as S3 does for a file uploaded in one piece).

    Args:
        url: https address.
        folder: where the file is kept, and its part until it is whole.
        show_progress: whether to show a progress bar.

    Returns:
        The file.

    Raises:
        InputError: the address is not https, the server does not give the file, the connection broke again and again,
            or the file is not what the server said it is.
    """
    remote = _describe(url)
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2]) or "file"
    file, part = folder / name, folder / f"{name}.{_digest(remote)}.part"
    if file.is_file():
        return file
    getLogger().info(f"Downloading {url}")
    with tqdm(
        total=remote.size, initial=_size(part), desc=name, unit="B", unit_scale=True, disable=not show_progress
    ) as bar:
        _complete(remote, part, bar)
    if remote.md5 and _md5(part) != remote.md5:
        part.unlink()
        raise InputError(f"{url}: what came does not have the MD5 sum that the server publishes; try again")
    return part.replace(file)


def _complete(remote: _Remote, part: Path, bar: tqdm) -> None:
    """Fetch what is missing of ``part``, in several attempts if need be."""
    failures = 0
    while (before := _size(part)) < remote.size:
        try:
            _append(remote, part, bar)
        except HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):  # timeout, too many requests
                raise InputError(f"{remote.url}: the server answers {error.code} {error.reason}") from error
        except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            getLogger().debug(f"{remote.url}: {error}")
        failures = 0 if _size(part) > before else failures + 1
        if failures == _ATTEMPTS:
            raise InputError(
                f"{remote.url}: the connection breaks again and again, {before} of {remote.size} bytes are there; the "
                "same command goes on from them"
            )
        if failures:
            time.sleep(_PAUSE * 2 ** (failures - 1))


def _append(remote: _Remote, part: Path, bar: tqdm) -> None:
    """One request for the bytes that ``part`` lacks; a server that does not know ranges sends all of them."""
    have = _size(part)
    headers = {"Range": f"bytes={have}-", **({"If-Range": remote.version} if remote.version else {})} if have else {}
    with _open(Request(remote.url, headers=headers)) as response:
        begins = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        bar.n = begins
        with open(part, "ab" if begins else "wb", buffering=0) as stream:  # a kill loses nothing that came
            while begins < remote.size and (chunk := response.read1(min(_CHUNK, remote.size - begins))):
                stream.write(chunk)
                begins += len(chunk)
                bar.update(len(chunk))


def _describe(url: str) -> _Remote:
    """What the server says of a file, before it is fetched."""
    check_url(url)
    try:
        with _open(Request(url, method="HEAD")) as response:
            headers = response.headers
    except HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{url}: cannot be reached ({reason}); go online, or put the files there yourself") from error
    size = headers.get("Content-Length", "")
    if not size.isdecimal():
        raise InputError(f"{url}: the server does not say how large the file is")
    version = headers.get("ETag", "")
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    is_md5 = headers.get("Server") == "AmazonS3" and plain and re.fullmatch('"[0-9a-f]{32}"', version)
    return _Remote(url, int(size), "" if version.startswith("W/") else version, version.strip('"') if is_md5 else "")


def _open(request: Request):
    return build_opener(_SecureRedirects).open(request, timeout=_TIMEOUT)


def _digest(remote: _Remote) -> str:
    return hashlib.sha256(f"{remote.url} {remote.size} {remote.version}".encode()).hexdigest()[:12]


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
