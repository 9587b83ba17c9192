"""What the site holds besides docs/: README, changelog, results and the configuration reference."""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = "reference/configuration.md"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def _pages_outside() -> dict[str, str]:
    """Page of each file that lies outside docs/, by its path in the repository."""
    pages = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    results = sorted(ROOT.glob("benchmarks/results/*.md"))
    return pages | {file.relative_to(ROOT).as_posix(): f"results/{file.name}" for file in results}


PAGES = _pages_outside()
_SOURCES = {page: source for source, page in PAGES.items()}


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of results where the navigation has ``results``."""
    results = sorted(page for page in _SOURCES if page.startswith("results/"))
    config.nav = [{"Results": results} if entry == {"Results": "results"} else entry for entry in config.nav]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages whose sources lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, CONFIGURATION, content=_configuration()))


def _configuration() -> str:
    """The property files, one after the other."""
    files = sorted(ROOT.glob("properties/**/*.yaml"), key=lambda file: (file.parent != ROOT / "properties", file))
    parts = [f"## {file.relative_to(ROOT)}\n\n```yaml\n{file.read_text(encoding='utf-8')}```\n" for file in files]
    return "\n".join(["# Configuration\n", *parts])


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Links that lead through the repository, as its browser follows them, lead through the site."""
    here = page.file.src_uri
    source = _SOURCES.get(here, f"docs/{here}")

    def site_link(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), link[1]))
        return os.path.relpath(_page_of(target), os.path.dirname(here) or ".") if _page_of(target) else link[1]

    return _LINK.sub(site_link, markdown)


def _page_of(target: str) -> str | None:
    """Page or file of the site for a path in the repository; None for what is not in the site."""
    if target.split("/")[0] == "properties":
        return CONFIGURATION
    return PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
