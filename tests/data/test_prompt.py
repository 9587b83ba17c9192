"""Prompts, byte for byte."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_dealrec.config import Config
from recbole_dealrec.data import PromptTemplate
from recbole_dealrec.errors import InputError

BIGREC_PROMPT = """\
The task is described first and its data follow. Give the answer that completes it.

### Instruction:
A user has watched the movies below, the latest last. Write the title of one more movie that this user is likely to \
enjoy next.

### Input:
"Toy Story", "GoldenEye"

### Response:
"""


def test_prompt_of_a_real_model():
    config = Config("BIGRec", "ml-100k", config_dict={"llm_path": "some/model"})
    prompt = PromptTemplate(config).render(["Toy Story", "GoldenEye"])
    assert prompt.text == BIGREC_PROMPT
    assert prompt.input == '"Toy Story", "GoldenEye"'
    assert prompt.instruction == BIGREC_PROMPT.splitlines()[3]


def test_default_nouns():
    template = PromptTemplate(Config("BIGRec", "some", config_dict={"llm_path": "some/model"}))
    assert template.instruction == (
        "A user has chosen the items below, the latest last. "
        "Write the title of one more item that this user is likely to enjoy next."
    )


def test_prompt_of_the_embedded_model():
    prompt = PromptTemplate(Config("BIGRec", "ml-100k")).render(["Toy Story", "GoldenEye"])
    assert prompt.instruction.startswith("A user has watched the movies below")
    assert prompt.input == '"Toy Story", "GoldenEye"'
    assert prompt.text == '"Toy Story", "GoldenEye"\n'


def test_response_is_the_quoted_title():
    assert PromptTemplate.response("Toy Story") == '"Toy Story"'


def test_empty_history():
    assert PromptTemplate(Config("BIGRec", "ml-100k")).render([]).text == "\n"


HOSTILE = ["{history}", "{0}", "}{", '"', '""', "{{", "%s", "\\n", "{noun!r:>30}"]


@pytest.mark.parametrize("title", HOSTILE)
def test_titles_are_not_interpreted(title):
    template = PromptTemplate(Config("BIGRec", "ml-100k"))
    assert template.render([title, "x"]).text == f'"{title}", "x"\n'
    assert template.response(title) == f'"{title}"'


TINY = Config("BIGRec", "ml-100k")


@given(st.lists(st.text()))
def test_the_input_is_the_titles_in_order(titles):
    prompt = PromptTemplate(TINY).render(titles)
    assert prompt.input == ", ".join('"' + title + '"' for title in titles)
    assert prompt.text == prompt.input + "\n"


# What the text between two titles is made of.
ODD = st.text('", \\a', min_size=1).map(lambda text: " ".join(text.split())).filter(bool)


@pytest.mark.parametrize(
    "title", ["Pizza Pan 12", 'Pizza Pan 12"', '"Weird Al"', '"', '""', 'a", "b', '", "', "a\\", '", \\"']
)
def test_a_title_is_read_as_it_was_written(title):
    assert PromptTemplate.title(PromptTemplate.response(title)) == title


@given(ODD)
def test_any_title_is_read_as_it_was_written(title):
    assert PromptTemplate.title(PromptTemplate.response(title)) == title


@pytest.mark.parametrize(
    ("response", "title"),
    [
        ("", ""), (" \n", ""), ("Alpha", "Alpha"), ('  "Alpha" \nand more', "Alpha"), ('"Alpha', "Alpha"),
        ('Pan 12"', 'Pan 12"'), ('"', ""), ('""', ""), ('"""', '"'),
    ],
)  # fmt: skip
def test_one_pair_of_quotes_is_taken_off(response, title):
    assert PromptTemplate.title(response) == title


def test_no_title_is_taken_for_two():
    assert PromptTemplate.list_titles(['a", "b']) == '"a", \\"b"'
    assert PromptTemplate.list_titles(["a", "b"]) == '"a", "b"'


@settings(max_examples=1000)
@given(st.lists(ODD, min_size=1, max_size=3), st.lists(ODD, min_size=1, max_size=3))
def test_different_lists_are_different_texts(some, others):
    assert (some == others) == (PromptTemplate.list_titles(some) == PromptTemplate.list_titles(others))


def test_all_short_titles_and_pairs_are_different_texts():
    short = [" ".join("".join(signs).split()) for n in (1, 2, 3) for signs in product('", \\', repeat=n)]
    titles = [title for title in dict.fromkeys(short) if title]
    longer = {" ".join("".join(signs).split()) for n in range(1, 7) for signs in product(('"', ", ", "\\"), repeat=n)}
    lists = {*product(titles, repeat=2), *((title,) for title in longer if title)}
    assert len(set(map(PromptTemplate.list_titles, lists))) == len(lists) > 1000


def test_own_texts(ten):
    keys = {
        "prompt_noun": "film", "prompt_verb": "seen", "prompt_instruction": "Name a {noun} {{new}}, not {verb}.",
        "prompt_input": "{verb}: {history}.", "prompt_layout": "<{instruction}|{input}|{noun}>",
    }  # fmt: skip
    prompt = PromptTemplate(ten(**keys)).render(["A {b}"])
    assert prompt.instruction == "Name a film {new}, not seen."
    assert prompt.input == 'seen: "A {b}".'
    assert prompt.text == '<Name a film {new}, not seen.|seen: "A {b}".|film>'


def test_nouns_are_not_interpreted_again(ten):
    config = ten(prompt_noun="{verb}", prompt_instruction="{noun}", prompt_layout="{instruction} {noun} {input}")
    assert PromptTemplate(config).render([]).text == "{verb} {verb} "


@pytest.mark.parametrize(
    ("key", "text", "field"),
    [
        ("prompt_instruction", "Look at {history}", "history"),
        ("prompt_input", "{titles}", "titles"),
        ("prompt_layout", "{input} {history}", "history"),
        ("prompt_layout", "{}", ""),
        ("prompt_layout", "{input.text}", "input.text"),
        ("prompt_input", "{history[0]}", "history[0]"),
        ("prompt_input", "{history:{width}}", "history:{width}"),
        ("prompt_input", "{history:5d}", "history:5d"),
        ("prompt_layout", "{input!x}", "input!x"),
    ],
)
def test_an_unknown_field_is_named(key, text, field, ten):
    with pytest.raises(InputError) as raised:
        PromptTemplate(ten(**{key: text}))
    message = str(raised.value)
    assert f"'{key}'" in message and f"{{{field}}}" in message and "noun" in message and "\n" not in message


@pytest.mark.parametrize("key", ["prompt_instruction", "prompt_input", "prompt_layout"])
@pytest.mark.parametrize("text", ["a { b", "a } b", "{noun", "{noun}}"])
def test_a_stray_brace_is_an_error_that_says_what_to_write(key, text, ten):
    with pytest.raises(InputError, match=f"'{key}'.*write {{{{ and }}}}"):
        PromptTemplate(ten(**{key: text}))


@pytest.mark.parametrize(
    ("keys", "key", "field"),
    [
        ({"prompt_input": "some titles"}, "prompt_input", "history"),
        ({"prompt_input": "{noun} {{history}}"}, "prompt_input", "history"),
        ({"prompt_layout": "{instruction}"}, "prompt_layout", "input"),
        ({"prompt_input": "", "chat_template": True}, "prompt_input", "history"),
    ],
)
def test_a_layout_without_the_history_is_an_error(keys, key, field, ten):
    with pytest.raises(InputError) as raised:
        PromptTemplate(ten(**keys))
    message = f"configuration key '{key}' lacks the history: it has no {{{field}}}; add it"
    assert str(raised.value) == message
