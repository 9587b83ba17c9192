"""Titles as they stand in the file, aligned on the catalogue."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_dealrec.data import load_splits
from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.title import n_sharing, read_titles
from recbole_dealrec.errors import InputError

HEADER = "item_id:token\ttitle:token_seq\n"


@pytest.fixture
def read(tmp_path):
    """Reads a file of the given content (text or bytes) for the catalogue's tokens, a, b and c by default."""

    def call(content, tokens=("[PAD]", "a", "b", "c"), title_field="title", **options):
        file = tmp_path / "shop.item"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read_titles(AtomicFile(file, **options), "item_id", title_field)
        return ["", *(found.get(token) for token in tokens[1:])]

    return call


def test_titles_follow_the_tokens_not_the_file(read):
    assert read(HEADER + "c\tThree\na\tOne\nunknown\tNo One\nb\tTwo\n") == ["", "One", "Two", "Three"]


def test_header_types_do_not_matter(read):
    for kind in ("token", "token_seq"):
        assert read(f"item_id:token\ttitle:{kind}\na\tOne Two\nb\tTwo\nc\t3\n")[1:] == ["One Two", "Two", "3"]


@pytest.mark.parametrize(
    "title", ['"Quoted', '"Weird Al"', "'", '""', 'a "b" c', "NA", "None", "null", "nan", "N/A", "-", "0"]
)
def test_words_and_quotes_stay_as_they_are(title, read):
    assert read(f"{HEADER}a\t{title}\nb\tTwo\nc\tThree\n") == ["", title, "Two", "Three"]


def test_equal_titles_stay_apart(read):
    assert read(HEADER + "a\tTwin\nb\tTwin\nc\tOther\n") == ["", "Twin", "Twin", "Other"]


def test_a_row_that_repeats_item_and_title_is_no_matter(read):
    assert read(HEADER + "a\tOne\nb\tTwo\nc\tThree\na\t One \n") == ["", "One", "Two", "Three"]


def test_a_tab_in_a_title_that_is_not_the_last_column_is_an_error(read):
    with pytest.raises(InputError, match="shop.item, row 2: 4 columns where the header has 3"):
        read("item_id:token\ttitle:token_seq\tyear:token\na\tOne\ttwo\t1999\n")


def test_a_tab_in_the_last_column_belongs_to_the_title(read):
    assert read(HEADER + "a\tOne\tand\ttwo\nb\tTwo\nc\tThree\n")[1] == "One and two"


def test_other_columns_are_passed_over(read):
    text = "title:token_seq\tprice:float\titem_id:token\nOne, 1\t3\ta\nTwo\t\tb\nThree\t4\tc\n"
    assert read(text) == ["", "One, 1", "Two", "Three"]


def test_white_space_inside_is_single(read):
    assert read(HEADER + "a\t  One   Two \nb\tTwo\u00a0Three\nc\t3\n")[1:3] == ["One Two", "Two Three"]


def test_line_ends_blank_lines_and_byte_order_mark(read):
    text = "\ufeffitem_id:token\ttitle:token_seq\r\na\tOne\r\n\r\nb\tTwo\r\nc\tThree"
    assert read(text) == ["", "One", "Two", "Three"]


def test_another_separator(read):
    assert read("item_id:token|title:token\na|One\nb|Two\tB\nc|3\n", separator="|") == ["", "One", "Two B", "3"]


def test_an_item_without_title_is_not_among_them(read):
    assert read(HEADER + "a\tOne\nb\t  \n") == ["", "One", None, None]


@pytest.mark.parametrize("title", ["", "b", " two  words "])
def test_an_item_on_two_rows_has_one_title_or_none(title, read):
    assert read(HEADER + f"a\tOne\nb\t{title}\nb\t{title}\n")[2] == (" ".join(title.split()) or None)
    with pytest.raises(InputError, match="row 4: item 'b' has a different title in an earlier row"):
        read(HEADER + f"a\tOne\nb\t{title}\nb\tother\n")


@pytest.mark.parametrize(
    ("titles", "count"), [(["", "a", "b"], 0), (["", "a", "b", "a"], 2), (["a", "a", "a", "b", "b"], 5)]
)
def test_items_that_share_their_title_are_counted(titles, count):
    assert n_sharing(titles) == count


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("item_id:token\tname:token\na\tOne\n", r"no column 'title' \(found item_id, name\); set title_field"),
        ("id:token\ttitle:token\na\tOne\n", "no column 'item_id'"),
        ("", r"no column 'item_id' \(found none\)"),
        ("item_id\ttitle\na\tOne\n", "the header has 'item_id'; write name:type"),
        (HEADER.strip().encode() + b"\ttitle:token\na\tOne\tTwo\n", "the header has two columns 'title'"),
        (HEADER.encode() + b"b\tTwo\n\na\tOn\xe9\n", "not utf-8 text"),
        (HEADER.encode() + b"a\tOn\x00e\n", "holds a NUL byte"),
        (b"\xff\xfei", "not utf-8 text"),
        (HEADER + "a\tOne\nb\tTwo\na\tOnce\n", "item 'a' has a different title in an earlier row"),
    ],
)
def test_an_unusable_file_is_named(content, part, read):
    with pytest.raises(InputError, match=rf"shop.item(, row \d)?: {part}") as raised:
        read(content)
    assert "\n" not in str(raised.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match="shop.item: no such file"):
        read_titles(AtomicFile(tmp_path / "shop.item"), "item_id", "title")


@pytest.mark.parametrize(
    ("lines", "number"), [(["a\tOne", "b"], 3), (["a"], 2), (["a\tOne", "", "b\tTwo", "", "c"], 6), (["a One"], 2)]
)
def test_a_ragged_row_is_named_by_its_line(lines, number, read):
    with pytest.raises(InputError, match=re.escape(f"shop.item, row {number}: 1 columns where the header has 2")):
        read(HEADER + "\n".join(lines) + "\n")


titles = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"), min_size=1).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(st.lists(titles, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_any_title_comes_back(written, line_end):
    tokens = ["[PAD]", *(f"item {number}" for number in range(len(written)))]
    rows = [f"{token}\t{title}" for token, title in zip(tokens[1:], written, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.item"
        file.write_bytes((HEADER.strip() + line_end + line_end.join(reversed(rows)) + line_end).encode())
        found = read_titles(AtomicFile(file), "item_id", "title")
    assert found == {token: " ".join(title.split()) for token, title in zip(tokens[1:], written, strict=True)}


def test_the_dataset_has_the_titles_by_its_own_ids(ten):
    train = load_splits(ten()).train
    by_token = dict(zip(train.field2id_token["item_id"], train.titles, strict=True))
    assert by_token == {
        "[PAD]": "", "i1": "Alpha", "i2": '"Beta" Returns', "i3": "NA", "i4": "Delta, The", "i5": "Twin", "i6": "Twin",
        "i7": "{history}", "i8": "Theta: Part 2", "i9": "Iota", "i10": "Kappa (1996)",
    }  # fmt: skip


def test_real_titles(movies):
    train = load_splits(movies()).train
    by_token = dict(zip(train.field2id_token["item_id"], train.titles, strict=True))
    assert by_token["1"] == "Toy Story" and by_token["50"] == "Star Wars"
    assert len(train.titles) == train.item_num
