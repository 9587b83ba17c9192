"""Rows of atomic files: what is whole passes, what is not is named by file and row."""

import re

import pytest

from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.errors import InputError

WANTED = {"user": "token", "time": "float"}
HEADER = "user:token\ttime:float\ttext:token_seq\n"


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes to a file and returns it as an atomic file."""

    def make(content, **options):
        path = tmp_path / "shop.inter"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return AtomicFile(path, **options)

    return make


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "u\t1\ta b\nv\t2\t\n",
        HEADER + "\nu\t1\ta b\n\n",
        HEADER.replace("\n", "\r\n") + "u\t1\ta b\r\n",
        HEADER + 'u\t1\tthe 12" single',
        HEADER + "u\t1\t\u202eright to left\x07\u2028\x85é\n",
        HEADER,
    ],
)
def test_whole_rows_pass(content, write):
    assert write(content).check_rows(WANTED) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": no column 'user:token' (found none)"),
        ("user:token\n", ": no column 'time:float' (found user:token)"),
        ("user:token\ttime:token\n", ": no column 'time:float' (found user:token, time:token)"),
        ("user\ttime:float\n", ", row 1: the header has 'user'; write name:type"),
        ("user:token\ttime:int\n", ", row 1: the header has 'time:int'; write name:type"),
        ("user:token\t\ttime:float\n", ", row 1: the header has ''; write name:type"),
        ("\nuser:token\tuser:float\n", ", row 2: the header has two columns 'user'"),
        ("\ufeff" + HEADER, ", row 1: begins with a byte order mark"),
        (HEADER + "u\t1\ta\nv\t2\n", ", row 3: 2 columns where the header has 3"),
        (HEADER + "u\t1\ta\t\n", ", row 2: 4 columns where the header has 3"),
        (HEADER + "\n\nu 1 a\n", ", row 4: 1 columns where the header has 3"),
        (HEADER + 'u\t1\t"a\n', ", row 2: a column begins with a quotation mark"),
        (HEADER + '"u"\t1\ta\n', ", row 2: a column begins with a quotation mark"),
        (HEADER + "u\t1\ta\rv\t2\tb\r\n", ", row 2: 5 columns where the header has 3"),
        (HEADER + "u\t1\ta\rb\n", ", row 2: contains a carriage return"),
        (HEADER + "u\t1\t\0\n", ", row 2: holds a NUL byte"),
        (HEADER.encode() + b"u\t1\t\xe9\n", ", row 2: not utf-8 text"),
        (HEADER.encode("utf-16"), ", row 1: "),
    ],
)
def test_the_first_row_that_is_not_whole_is_named(content, message, write):
    with pytest.raises(InputError, match=re.escape(f"shop.inter{message}")):
        write(content).check_rows(WANTED)


def test_another_separator_and_encoding(write):
    file = write("user:token|time:float\né|1\n".encode("latin-1"), separator="|", encoding="latin-1")
    file.check_rows(WANTED)
    assert list(file.rows())[1] == (2, ["é", "1"])


def test_an_unknown_encoding_is_named(write):
    with pytest.raises(InputError, match="'encoding': Python has no encoding 'utf-99'"):
        write(HEADER, encoding="utf-99").columns()


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        AtomicFile(tmp_path).columns()


@pytest.mark.parametrize("value", ["noon", "", "nan", "-inf", "1,5", "2024-10-11"])
def test_what_is_no_number_is_named(value, write):
    with pytest.raises(InputError, match=re.escape(f"shop.inter, row 4: time is '{value}', which is not a number")):
        write(HEADER + f"u\t1e9\ta\n\nu\t{value}\ta\n").check_numbers("time")


def test_numbers_pass(write):
    assert write(HEADER + "u\t-1.5\tx\nu\t 3e9\tx\n").check_numbers("time") is None


def test_rows_are_counted_with_the_blank_lines_between_them(write):
    file = write("\n" + HEADER + "\n\nu\t1\ta\nv\t2\tb\n\nw\t3\tc\n")
    assert [file.row_number(index) for index in range(3)] == [5, 6, 8]
