"""What the pages name exists: links, headings, files of the project, recipes."""

import re
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FOLDERS = ("benchmarks", "config", "docs", "examples", "fairseq_distill", "hydra_plugins", "tests")
PACKAGE = [path.name for path in (ROOT / "fairseq_distill").iterdir() if path.is_dir()]
RECIPES = sorted(path.stem for path in (ROOT / "config").glob("*/*.yaml"))


def strip_blocks(text: str) -> str:
    """The text without its blocks of commands."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def list_headings(page: Path) -> List[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", strip_blocks(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def find_links(page: Path) -> Iterator[Tuple[str, str]]:
    """(target, anchor) of every link that stays in the project."""
    for match in LINK.finditer(strip_blocks(page.read_text(encoding="utf-8"))):
        target, _, anchor = (match.group(1) or match.group(2)).partition("#")
        if "://" not in target and not target.startswith("mailto:"):
            yield target, anchor


def find_files(page: Path) -> Iterator[str]:
    """Every `path` that begins with a folder of the project, or of the package."""
    for text in CODE.findall(strip_blocks(page.read_text(encoding="utf-8"))):
        if re.fullmatch(r"[\w./*-]+", text) and "/" in text:
            first = text.split("/")[0]
            if first in FOLDERS:
                yield text
            elif first in PACKAGE:
                yield f"fairseq_distill/{text}"


def test_readme_is_short_and_starts_with_its_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("    ")]
    assert commands[:2] == ["bash examples/quickstart/run.sh", "bash tests/run.sh"]


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_lead_somewhere(page):
    for target, anchor in find_links(page):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name_page(page)} links to {target}"
        if anchor:
            assert anchor in list_headings(file), f"{name_page(page)} links to {target}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_page)
def test_named_files_exist(page):
    missing = [path for path in find_files(page) if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing, f"{name_page(page)} names {missing}"


def test_every_page_is_reached_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        linked = [(page.parent / target).resolve() for target, _ in find_links(page) if target.endswith(".md")]
        todo += [file for file in linked if file.exists()]
    assert {name_page(page) for page in PAGES} <= {name_page(page) for page in seen}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_in_the_page_of_recipes(recipe):
    assert f"`{recipe}`" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
