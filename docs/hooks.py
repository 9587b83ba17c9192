"""What the site holds besides docs/: README, changelog, results and the configuration reference."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from recbole_dealrec.config.properties import Option, recbole_section, sections

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = "reference/configuration.md"
_INTRODUCTION = """# Configuration

Every key with its type and default, made from the files in `properties/`. Of two values for a key the later
wins: overall, model, llm (for `llm_path: tiny`), dataset, sampler, then `--config_files`, then the command line or
`config_dict`. An unknown key is an error. `recbole-dealrec --help all` shows the same."""
_LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def _pages_outside() -> dict[str, str]:
    """Page, or plain file, of each file that lies outside docs/, by its path in the repository."""
    pages = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    pages["benchmarks/README.md"] = "lab/index.md"
    results = sorted(ROOT.glob("benchmarks/results/*"))
    return pages | {file.relative_to(ROOT).as_posix(): f"lab/{file.name}" for file in results}


PAGES = _pages_outside()
_SOURCES = {page: source for source, page in PAGES.items()}


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of benchmarks/ where the navigation has ``lab``."""
    pages = sorted(page for page in _SOURCES if page.startswith("lab/") and page.endswith(".md"))
    lab = ["lab/index.md", *(page for page in pages if page != "lab/index.md")]
    config.nav = [{"Lab": lab} if entry == {"Lab": "lab"} else entry for entry in config.nav]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages whose sources lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, CONFIGURATION, content=_configuration()))


def _configuration() -> str:
    """Tables of all keys: those of the property files, and RecBole's own."""
    parts = [_INTRODUCTION]
    for section in [*sections(), recbole_section()]:
        parts += [f"## {section.name}", section.title]
        for group in section.groups:
            if group.title != section.title:
                parts.append(f"### {group.title}")
            parts.append(_table(group.options))
    return "\n\n".join(parts)


def _table(options: Iterable[Option]) -> str:
    rows = [(f"`{option.key}`", option.type, f"`{option.shown_default()}`", option.comment) for option in options]
    cells = [("key", "type", "default", "meaning"), ("---",) * 4, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Links that lead through the repository, as its browser follows them, lead through the site.

    Of a link to a file that the site does not hold, such as an example, the text is left.
    """
    here = page.file.src_uri
    source = _SOURCES.get(here, f"docs/{here}")

    def site_link(link: re.Match[str]) -> str:
        text, reference, anchor = link.groups(default="")
        target = os.path.normpath(os.path.join(os.path.dirname(source), reference))
        if _page_of(target):
            return f"[{text}]({os.path.relpath(_page_of(target), os.path.dirname(here) or '.')}{anchor})"
        return text if (ROOT / target).exists() else link[0]

    return _LINK.sub(site_link, markdown)


def _page_of(target: str) -> str | None:
    """Page or file of the site for a path in the repository; None for what is not in the site."""
    if target.split("/")[0] == "properties":
        return CONFIGURATION
    return PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
