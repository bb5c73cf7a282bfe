"""MkDocs hooks: the pages that other files of the repository make, and links to those files.

README.md is the first page. ARCHITECTURE.md, CONTRIBUTING.md, CHANGELOG.md and benches/README.md are pages too. The
methods' pages and the API are made from the package. The project's address comes from ``[project.urls]`` of
pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import dap
import method_pages
import reference_pages

ROOT = Path(__file__).parents[2]
PROJECT = {  # files of the repository that are pages
    "README.md": "index.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "benches/README.md": "project/benches.md",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the addresses, and add the pages that are made to the navigation."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    config.site_url, config.repo_url = urls.get("Documentation"), urls.get("Repository")
    made = {
        "Methods": [f"methods/{name}.md" for name in method_pages.pages()],
        "API": [{name: f"api/{name}.md"} for name in reference_pages.pages()],
    }
    for section in config.nav or []:
        for title, pages in section.items():
            pages += made.get(title, []) if isinstance(pages, list) else []
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    texts = {page: _moved((ROOT / path).read_text("utf-8"), path, page) for path, page in PROJECT.items()}
    texts |= {f"methods/{name}.md": text for name, text in method_pages.pages().items()}
    texts |= {f"api/{name}.md": text for name, text in reference_pages.pages().items()}
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Mark sessions of Python as such, and lead to pages that are made: files of the repository, methods."""
    if page.file.src_uri == "methods/index.md":
        names = "|".join(info.name for info in dap.list_methods())
        markdown = re.sub(rf"`({names})`", r"[`\1`](\1.md)", markdown)
    up = "../" * page.file.src_uri.count("/")
    for path, made in PROJECT.items():
        markdown = markdown.replace(f"]({up}../{path}", f"]({up}{made}")
    return markdown.replace("```python\n>>>", "```pycon\n>>>")


def _moved(text: str, path: str, page: str) -> str:
    """Return the text of a file with its relative links as they are from the page that it becomes."""
    up = "../" * page.count("/")

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[1].partition("#")
        inside = (ROOT / path).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        inside = PROJECT.get(inside) or inside.removeprefix("docs/")
        return f"]({up}{inside}{'#' * bool(anchor)}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", link, text)
