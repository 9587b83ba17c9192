"""The text of ``--help``: subcommands, common keys, and all keys or those of a topic."""

import textwrap
from collections.abc import Iterator

from recbole_dealrec.cli.command import SUBCOMMANDS
from recbole_dealrec.config.key import STEPS
from recbole_dealrec.config.properties import Group, Option, Section, recbole_section, registered_sections, sections
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.errors import InputError, closest

ALL = "all"
_KEY_COLUMNS = 34
_COMMON = (
    "dataset=games", "data_path=dataset", "title_field=movie_title", "prompt_noun=book", "llm_path=Qwen/Qwen2.5-0.5B",
    "model=TIGER", "sampler=DEALRec,Random", "n_fewshot=1024", "n_test=500", "checkpoint_dir=runs",
)  # fmt: skip


def subcommands_text(width: int) -> str:
    """Return the subcommands, wrapped to ``width`` columns."""
    lines = ["subcommands; each has --help"]
    for name, (_, purpose) in SUBCOMMANDS.items():
        lines += textwrap.wrap(purpose, width, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)
    return "\n".join(lines)


def common_text(width: int) -> str:
    """Return the most common keys, with examples, and how to find the others."""
    options: dict[str, Option] = {}
    for option in (option for section in _sections() for group in section.groups for option in group.options):
        options.setdefault(option.key, option)
    lines = ["common configuration keys, by example"]
    for example in _COMMON:
        option = options[example.partition("=")[0]]
        lines += _entry(f"  --{example}", f"{option.comment} [default: {option.shown_default()}]", width)
    topics = f"--help {ALL} shows every key, --help TOPIC those of a topic: a model, {', '.join(STEPS)}, or a word"
    return "\n".join([*lines, "", *textwrap.wrap(topics, width)])


def help_text(width: int, topic: str = ALL) -> str:
    """Return configuration keys by group, wrapped to ``width`` columns.

    Args:
        width: columns of the terminal.
        topic: ``all``, a step of a run, or a word in the name of a key, of its group or of its file.

    Raises:
        InputError: no key has this topic.
    """
    found = [section for section in (_of_topic(section, topic) for section in _sections()) if section.groups]
    if not found:
        raise InputError(f"--help: no key has the topic '{topic}'{closest(topic, [ALL, *STEPS])}")
    order = "configuration keys, as --key=value; later files override earlier: overall, model, llm, dataset, sampler"
    lines = textwrap.wrap(order, width)
    for section in found:
        lines += ["", *textwrap.wrap(f"{section.name}: {section.title}", width)]
        for group in section.groups:
            if group.title != section.title:
                lines += ["", *textwrap.wrap(f"  {group.title}", width, subsequent_indent="  ")]
            for option in group.options:
                text = f"({option.type}) {option.comment} [default: {option.shown_default()}]"
                lines += _entry(f"    --{option.key}", text, width)
    return "\n".join(lines)


def _sections() -> Iterator[Section]:
    """Yield the property files, the keys of registered classes, and RecBole's own file."""
    yield from sections()
    yield from registered_sections()
    yield recbole_section()


def _of_topic(section: Section, topic: str) -> Section:
    """Return a section with only the options of a topic."""
    groups = []
    for group in section.groups:
        words = f"{section.name} {group.title}".lower()
        whole = topic == ALL or topic.lower() in words
        kept = [option for option in group.options if whole or _is_of_topic(option, topic)]
        groups += [Group(group.title, tuple(kept))] if kept else []
    return Section(section.name, section.title, tuple(groups))


def _is_of_topic(option: Option, topic: str) -> bool:
    key = key_of(option.key)
    return topic.lower() in option.key.lower() or key is not None and key.step == topic.lower()


def _entry(head: str, text: str, width: int) -> Iterator[str]:
    """Yield the lines of a key: the key on the left, or above the text if it is too long."""
    indent = " " * _KEY_COLUMNS
    first = f"{head:<{_KEY_COLUMNS}}" if len(head) < _KEY_COLUMNS - 1 else indent
    if first == indent:
        yield head
    yield from textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)
