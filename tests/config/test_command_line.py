"""Values given as strings: what they are read as, and that none is evaluated."""

import re

import pytest

from recbole_dealrec.config.command_line import parse_command_line, parse_value
from recbole_dealrec.errors import InputError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--n_fewshot=64"], {"n_fewshot": 64}),
        (["--n_fewshot", "64"], {"n_fewshot": 64}),
        (["--train_on_inputs"], {"train_on_inputs": True}),
        (["--train_on_inputs", "--seed=3"], {"train_on_inputs": True, "seed": 3}),
        (["--title_field=a=b"], {"title_field": "a=b"}),
        (["--seed", "-3"], {"seed": -3}),
        (["--weight_decay=-0.5"], {"weight_decay": -0.5}),
        (["--topk=[5, 10]"], {"topk": [5, 10]}),
        (["--eval_args={'order': 'TO', 'mode': 'full'}"], {"eval_args": {"order": "TO", "mode": "full"}}),
        (["--eval_args={order: TO}"], {"eval_args": {"order": "TO"}}),
        (["--learning_rate=1e-3"], {"learning_rate": 0.001}),
        (["--learning_rate=1.5E+2"], {"learning_rate": 150.0}),
        (["--x=2024-10-11"], {"x": "2024-10-11"}),
        (["--x=None"], {"x": None}),
        (["--x=~"], {"x": None}),
        (["--x=null"], {"x": None}),
        (["--x="], {"x": None}),
        (["--x=true", "--y=False"], {"x": True, "y": False}),
        (["--x='64'"], {"x": "64"}),
        (["--gpu_id=0,1"], {"gpu_id": "0,1"}),
        (["--llm_path=Qwen/Qwen2.5-0.5B"], {"llm_path": "Qwen/Qwen2.5-0.5B"}),
        (["--llm_path=../models/a b"], {"llm_path": "../models/a b"}),
        (["--x=os.getcwd()"], {"x": "os.getcwd()"}),
        (["--x=1/0"], {"x": "1/0"}),
        (["--x=[unclosed"], {"x": "[unclosed"}),
        (["--seed=3", "--seed=3"], {"seed": 3}),
        ([], {}),
    ],
)
def test_command_line_values(words, expected):
    found = parse_command_line(words)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize("word", ["seed=3", "-s", "--", "3"])
def test_a_word_that_is_no_option_is_named(word):
    with pytest.raises(InputError, match=re.escape(f"'{word}'")):
        parse_command_line([word])


def test_a_key_given_twice_with_different_values_is_refused():
    with pytest.raises(InputError, match="--seed"):
        parse_command_line(["--seed=3", "--seed=4"])
    with pytest.raises(InputError, match="--x"):
        parse_command_line(["--x=None", "--x=4"])


@pytest.mark.parametrize(
    "template", ["__import__('os').mkdir('{}')", "open('{}', 'w')", "!!python/object/apply:os.mkdir ['{}']"]
)
def test_no_value_is_ever_evaluated(template, tmp_path, ten):
    text = template.format(tmp_path / "made")
    assert parse_value(text) == text
    assert parse_command_line([f"--x={text}"]) == {"x": text}
    assert ten(title_field=text)["title_field"] == text
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("mixed_precision", "no"),
        ("prompt_input", "{history}"),
        ("prompt_layout", "{input}"),
        ("prompt_instruction", ""),
        ("prompt_noun", "on"),
        ("prompt_verb", "# liked"),
        ("title_field", "2"),
        ("llm_path", "models/run #1"),
        ("checkpoint_dir", "saved #1"),
        ("seq_separator", " "),
        ("field_separator", "\t"),
    ],
)
def test_keys_that_hold_text_keep_it_as_written(key, text, ten):
    assert ten(**{key: text})[key] == text
    assert parse_command_line([f"--{key}={text}"]) == {key: text}


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "9" * 5000, "!!int many", "!!bool x", "[" * 2000])
def test_yaml_that_is_refused_in_a_file_is_text_as_a_value(text):
    assert parse_value(text) == text
