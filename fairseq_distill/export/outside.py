"""Exported folders as a process without fairseq opens and runs them; what such a process needs must be installed."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence

import torch
from torch import Tensor

from ..errors import UserError

# It answers each line of its input, the path of saved waves and mask, once the states lie beside it. BLOCKED cannot be
# imported. PROGRAM defines `run(waves, padding_mask)`, which gives the states of `comparison.list_states`.
_SERVER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} may not be needed here")
sys.meta_path.insert(0, Blocker())
answers, sys.stdout = sys.stdout, sys.stderr
folder = sys.argv[1]
import torch
{program}
print("ready", file=answers, flush=True)
for line in sys.stdin:
    path = line.rstrip("\\n")
    given = torch.load(path, weights_only=True)
    with torch.no_grad():
        torch.save(list(run(given["waves"], given["padding_mask"])), path + ".states")
    print("done", file=answers, flush=True)
assert not {blocked!r} & {{name.split(".")[0] for name in sys.modules}}
"""


class OutsideReader:
    """A `comparison.Reader` that runs in a process of its own; close it.

    Args:
        program: Python that reads `folder` and defines `run(waves, padding_mask)`.
        folder: what was exported.
        blocked: packages besides fairseq and this one that must not be imported.
        normalizes: the network normalises waves itself where it was trained so.
    """

    def __init__(self, program: str, folder: Path, blocked: Sequence[str] = (), normalizes: bool = False):
        self.normalizes = normalizes
        self._folder = tempfile.TemporaryDirectory()
        self._errors = open(Path(self._folder.name) / "errors", "w+")  # noqa: SIM115  # closed by `close`
        server = _SERVER.format(program=program, blocked={"fairseq", "fairseq_distill", *blocked})
        # the folder stays as it is, and the user's cache of others' code does too
        settings = {"PYTHONDONTWRITEBYTECODE": "1", "HF_HOME": self._folder.name, "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", server, str(folder.absolute())],
            cwd=self._folder.name,
            env={**os.environ, "PYTHONPATH": _make_absolute(os.environ.get("PYTHONPATH", "")), **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __call__(self, waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        """See `Reader`; RuntimeError with the last line that the process wrote where it ended instead."""
        path = Path(self._folder.name) / "waves"
        torch.save({"waves": waves, "padding_mask": padding_mask}, path)
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words say why
        while True:
            answer = self._process.stdout.readline().strip()
            if answer == "done":
                return torch.load(f"{path}.states", weights_only=True)
            if not answer:
                raise RuntimeError(self._find_last_words())

    def _find_last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        return ([line.strip() for line in self._errors if line.strip()] or ["the process ended without a word"])[-1]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._folder.cleanup()


def _make_absolute(path: str) -> str:
    """A PYTHONPATH that means the same from another folder."""
    return os.pathsep.join(os.path.abspath(part) for part in path.split(os.pathsep) if part)


def require_packages(format_name: str, *names: str) -> None:
    """Refuse, with a UserError that has the pip line, where a package of the extra `export` is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {format_name} needs {' and '.join(missing)}: pip install 'fairseq-distill[export]', or "
            f"pip install {' '.join(missing)}"
        )
