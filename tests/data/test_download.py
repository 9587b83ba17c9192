import hashlib
import sys

import numpy as np
import pytest

from recbole_dealrec.data.download.transfer import check_url, download
from recbole_dealrec.errors import InputError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


def ranges(server):
    return [wanted for method, _, wanted in server.asked if method == "GET"]


def test_a_file_comes_whole_and_once(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.files["/a/data.zip"] = CONTENT
    file = download(server.url("/a/data.zip"), tmp_path)
    assert file == tmp_path / "data.zip" and file.read_bytes() == CONTENT
    assert "data.zip: " in capsys.readouterr().err
    assert download(server.url("/a/data.zip"), tmp_path, show_progress=False) == file
    assert ranges(server) == [None] and [path.name for path in tmp_path.iterdir()] == ["data.zip"]
    assert capsys.readouterr().err == ""


def test_a_broken_connection_goes_on_from_the_last_byte(server, tmp_path):
    server.files["/data.zip"] = CONTENT
    server.breaks = [1_000_000, 0, 500_000]
    assert download(server.url("/data.zip"), tmp_path, False).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=1000000-", "bytes=1000000-", "bytes=1500000-"]


def test_a_download_that_was_given_up_goes_on_with_the_next(server, tmp_path):
    server.files["/data.zip"] = CONTENT
    server.breaks = [2_000_000] + [0] * 6
    with pytest.raises(InputError, match="breaks repeatedly; 2000000 of 3000000 bytes are there; run the same command"):
        download(server.url("/data.zip"), tmp_path, False)
    server.asked.clear()
    assert download(server.url("/data.zip"), tmp_path, False).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=2000000-"]


def test_another_version_of_the_file_is_begun_anew(server, tmp_path):
    server.files["/data.zip"] = CONTENT
    server.breaks = [2_000_000] + [0] * 6
    with pytest.raises(InputError):
        download(server.url("/data.zip"), tmp_path, False)
    server.files["/data.zip"] = CONTENT[::-1]
    assert download(server.url("/data.zip"), tmp_path, False).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.files["/data.zip"] = CONTENT
    server.ranges, server.breaks = False, [1_000_000]
    assert download(server.url("/data.zip"), tmp_path, False).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=1000000-"]


def test_the_published_checksum_is_compared(server, tmp_path):
    server.files["/data.zip"] = CONTENT
    server.etags["/data.zip"] = f'"{hashlib.md5(b"other").hexdigest()}"'
    with pytest.raises(InputError, match="does not have the MD5 sum that the server publishes"):
        download(server.url("/data.zip"), tmp_path, False)
    assert not list(tmp_path.iterdir())
    server.etags["/data.zip"] = '"0123-5"'  # of a file uploaded in five pieces: no MD5 sum
    assert download(server.url("/data.zip"), tmp_path, False).read_bytes() == CONTENT


def test_what_is_not_there_is_told(server, tmp_path):
    with pytest.raises(InputError, match="data.zip: the server answers 404"):
        download(server.url("/data.zip"), tmp_path, False)
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="cannot be reached .*refused.*; go online, or put the files into data_path"):
        download(server.url("/data.zip"), tmp_path, False)


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://127.0.0.1.example.org/x", "x"]
)
def test_only_https_is_downloaded(url, server, tmp_path):
    with pytest.raises(InputError, match="not https"):
        download(url, tmp_path)
    server.redirects["/data.zip"] = url if url != "x" else "http://example.org"
    with pytest.raises(InputError, match="not https|not allowed"):
        download(server.url("/data.zip"), tmp_path)


def test_https_and_this_machine_are_taken():
    for url in ("https://example.org/x", "http://127.0.0.1:80/x", "http://[::1]/x"):
        assert check_url(url) is None
