"""Commands in the pages: arguments are accepted, recipes and the settings that are changed exist, scripts are there."""

import re
import shlex
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
import yaml
from fairseq.dataclass.configs import DistributedTrainingConfig

from fairseq_distill.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def find_commands(program: str) -> List[Any]:
    """(page, words) of every command of a program that stands in a block, with its continuation lines."""
    return [
        pytest.param(words[1:], id=f"{page.name}:{number}")
        for page in PAGES
        for number, words in read_blocks(page)
        if words[:1] == [program]
    ]


def read_blocks(page: Path) -> Iterator[Tuple[int, List[str]]]:
    """(number of the line, words without settings of the shell) of every indented line."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^    (\S(?:.*\\\n)*.*)$", text, flags=re.MULTILINE):
        command = match.group(1).replace("\\\n", " ")
        words = shlex.split(command.replace("$(", "'$(").replace(")", ")'"), comments=True)
        while words and re.match(r"[A-Z0-9_]+=", words[0]):
            del words[0]
        yield text[: match.start()].count("\n") + 1, words


@pytest.mark.parametrize("words", find_commands("fairseq-distill"))
def test_command_line_is_accepted(words):
    assert build_parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("words", find_commands("fairseq-hydra-train"))
def test_recipe_has_the_settings_that_are_changed(words):
    options, overrides = dict(zip(words[:4:2], words[1:4:2])), words[4:]
    recipe = ROOT / options["--config-dir"] / f"{options['--config-name']}.yaml"
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert overrides
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith(("+", "-", "hydra.", "hydra/", "$(")):
            continue
        section, _, name = key.partition(".")
        of_fairseq = DistributedTrainingConfig.__dataclass_fields__ if section == "distributed_training" else ()
        assert name in settings[section] or name in of_fairseq, f"{key} is not in {recipe}"


@pytest.mark.parametrize("words", find_commands("bash"))
def test_script_is_there(words):
    assert (ROOT / words[0]).is_file()
    for path in (word for word in words[1:] if "/" in word):
        assert (ROOT / path).exists()
