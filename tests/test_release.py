"""What a release says of itself."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import dap

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_citation_has_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dap.__version__ and citation["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in citation["authors"]] == [a["name"] for a in PROJECT["project"]["authors"]]


def test_the_address_of_the_project_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.get("repository-code") == PROJECT["project"].get("urls", {}).get("Repository")


def test_a_release_stays_small() -> None:
    """The limits of whole wheels are in .ci/check_dist.py; these are the parts that grow unseen."""
    assets = sum(path.stat().st_size for path in (ROOT / "python/dap/assets").rglob("*") if path.is_file())
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs").rglob("*.png")}
    assert assets < 22 * 2**20
    assert sum(pictures.values()) < 3.5 * 2**20
    assert max(pictures.values()) < 1.75 * 2**20, pictures


def test_the_source_distribution_names_files_that_there_are() -> None:
    for entry in PROJECT["tool"]["maturin"]["include"]:
        assert list(ROOT.glob(entry["path"])), entry


def test_the_page_of_installation_has_every_extra() -> None:
    extras = (ROOT / "docs" / "install.md").read_text().partition("## Extras")[2]
    missing = [name for name in PROJECT["project"]["optional-dependencies"] if f"`{name}`" not in extras]
    assert missing == ["bench"]  # for those who work on dap


def test_the_glossary_has_the_words_of_the_tables() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    for word in ("slot", "unit", "prior", "ipc", "tap", "representativeness", "diversity", "coverage"):
        assert f"\n| {word} |" in text
    assert "sketch" in text
