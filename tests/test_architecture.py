"""The package's folders: no cycle of imports, and nobody imports what fairseq and the command line are given.

python -m tests.test_architecture     prints which folder imports which
"""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Dict, Set

ROOT = Path(__file__).resolve().parents[1] / "fairseq_distill"
FACES = {"tasks", "models", "criterions", "cli"}
LOOSE = {"__init__", "__main__", "compat", "errors"}
MOST_LINES = 400


def list_imports() -> Dict[str, Set[str]]:
    """For each folder (or loose module) of the package, those that its files import, at the top or in functions."""
    found = defaultdict(set)
    for file in ROOT.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = parts[: len(parts) - node.level]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                targets = [(*base, *name.split(".")) for name in names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == ROOT.name:
                targets = [tuple(node.module.split(".")[1:]) or ("__init__",)]
            else:
                continue
            found[parts[0]].update(target[0] for target in targets if target[0] != parts[0])
    return {name: {t for t in targets if (ROOT / t).is_dir() or t in LOOSE} for name, targets in found.items()}


def find_cycle(imports: Dict[str, Set[str]]) -> Set[str]:
    """Folders that are left when those that import no other one left are taken away, again and again."""
    left = dict(imports)
    while True:
        free = [name for name, targets in left.items() if not targets & left.keys()]
        if not free:
            return set(left)
        for name in free:
            del left[name]


def test_folders_import_each_other_in_one_direction():
    imports = {name: targets for name, targets in list_imports().items() if name not in LOOSE}
    assert len(imports) > 15 and {"encoder", "checkpoints"} <= imports["cli"]
    assert find_cycle(imports) == set()
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c", "d"}, "it sees cycles"


def test_nobody_imports_the_faces():
    for name, targets in list_imports().items():
        if name not in ("__init__", "__main__"):
            assert not targets & (FACES - {name}), f"{name} imports {targets & FACES}"


def test_files_are_in_folders_and_of_a_few_hundred_lines():
    assert {file.stem for file in ROOT.glob("*.py")} == LOOSE
    lengths = {file.name: len(file.read_text().splitlines()) for file in ROOT.rglob("*.py")}
    assert max(lengths.values()) <= MOST_LINES, max(lengths, key=lengths.get)


def test_no_sample_rate_is_assumed_but_in_the_default_of_a_field():
    """16 kHz, or the 320 samples of a frame there, are wrong for another teacher."""
    found = {}
    for file in ROOT.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        fields = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "field"]
        allowed = [keyword.value for call in fields for keyword in call.keywords if keyword.arg == "default"]
        numbers = [node for node in nodes if isinstance(node, ast.Constant) and type(node.value) in (int, float)]
        found[str(file.relative_to(ROOT))] = [
            n.lineno for n in numbers if n.value in (16_000, 320) and n not in allowed
        ]
    assert len(found) > 100 and {name: lines for name, lines in found.items() if lines} == {}


if __name__ == "__main__":
    for folder, others in sorted(list_imports().items()):
        print(f"{folder:<16}{', '.join(sorted(others - LOOSE))}")
