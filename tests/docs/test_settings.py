"""docs/settings.md says what the dataclasses say."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "settings.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_page_is_current():
    done = subprocess.run(
        [sys.executable, "docs/make_settings.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"run python docs/make_settings.py\n{done.stderr}"


@pytest.mark.parametrize("recipe", sorted((ROOT / "config").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_ours_in_a_recipe_has_a_row(page, recipe):
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for section in ("task", "criterion", "model"):
        given = settings[section]
        if str(given["_name"]).startswith("speech_"):
            missing = [name for name in given if name != "_name" and f"| `{section}.{name}` |" not in page]
            assert not missing, f"{recipe.name}: {section}.{missing}"


def test_settings_of_heads_have_rows(page):
    recipe = yaml.safe_load((ROOT / "config/finetune/kws_sv.yaml").read_text(encoding="utf-8"))
    for task in recipe["task"]["tasks"]:
        table = page.split(f"`kind: {task['kind']}`")[1].split("`kind:")[0].split("\n## ")[0]
        missing = [name for name in task if name != "kind" and f"| `{name}` |" not in table]
        assert not missing, f"{task['kind']}: {missing}"
