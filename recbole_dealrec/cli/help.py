"""The text of ``--help`` on configuration keys."""

import textwrap
from collections.abc import Iterator

from recbole_dealrec.config.properties import Option, recbole_section, registered_sections, sections

_KEY_COLUMNS = 34


def help_text(width: int) -> str:
    """Return all configuration keys by group, wrapped to ``width`` columns."""
    order = "configuration keys, as --key=value; the later wins: overall, model, llm, dataset, sampler"
    lines = textwrap.wrap(order, width)
    for section in filter(lambda section: section.groups, [*sections(), *registered_sections()]):
        lines += ["", *textwrap.wrap(f"{section.name}: {section.title}", width)]
        for group in section.groups:
            if group.title != section.title:
                lines += ["", *textwrap.wrap(f"  {group.title}", width, subsequent_indent="  ")]
            for option in group.options:
                lines += _option_lines(option, width)
    lines += ["", "RecBole's own keys with their defaults; https://recbole.io/docs explains them"]
    for group in recbole_section().groups:
        pairs = ", ".join(f"{option.key} {option.shown_default()}" for option in group.options)
        lines += ["", f"  {group.title}", *textwrap.wrap(pairs, width, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)


def _option_lines(option: Option, width: int) -> Iterator[str]:
    indent = " " * _KEY_COLUMNS
    head, text = f"    --{option.key}", f"({option.type}) {option.comment} [default: {option.shown_default()}]"
    first = f"{head:<{_KEY_COLUMNS}}" if len(head) < _KEY_COLUMNS - 1 else indent
    if first == indent:
        yield head
    yield from textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)
