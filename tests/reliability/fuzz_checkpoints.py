"""Damage and forge checkpoints at random, and read each: no crash, no traceback, no hang, no damaged file accepted.

    python -m tests.reliability.fuzz_checkpoints                     2,000 files, a few minutes
    python -m tests.reliability.fuzz_checkpoints --count 200 --seed 7

Five kinds: bytes of the file; the structure of its archive; instructions of its pickle, with right checksums; kinds of
tensors; settings. Each file goes through `load_encoder`, `info` and `prune`. A problem is any exception but
`UserError`, a traceback on stderr, over 10 seconds, memory beyond twice the file and 64 MB, features that are not
finite, or, of the first two kinds, weights that are not the original's. Exits with 1 if there is a problem. That no
code runs is tested with files made for it, in tests/checkpoints/test_safe_load.py.
"""

import argparse
import contextlib
import io
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from tqdm import tqdm

from fairseq_distill import load_encoder
from fairseq_distill.cli.main import main as run_command
from fairseq_distill.errors import UserError

from ..builders import build_gated
from ..checkpoints import layouts

MAX_SECONDS, MAX_EXTRA_BYTES = 10, 64 << 20


def write_originals(folder: Path) -> List[Path]:
    """A HuBERT, a WavLM and a student with gates."""
    torch.manual_seed(0)
    gated = build_gated(prune=["conv", "heads", "ffn"])
    settings = {k: getattr(v, "value", v) for k, v in vars(gated.cfg).items()}
    cfg = {"model": {**settings, "_name": "speech_student"}, "task": {"_name": "speech_distillation"}}
    return [
        layouts.write_hubert(folder / "hubert.pt", layouts.build_hubert()),
        layouts.write_wavlm(folder / "wavlm.pt", layouts.make_wavlm_state(False)),
        layouts.write_fairseq(folder / "gated.pt", gated.state_dict(), cfg=cfg),
    ]


def change_bytes(source: Path, target: Path, rng: random.Random) -> None:
    """Flip, cut, repeat or insert bytes."""
    content = bytearray(source.read_bytes())
    way = rng.choice(["flip", "flip", "flip", "cut", "repeat", "insert", "zero"])
    place = rng.randrange(len(content))
    if way == "flip":
        for _ in range(rng.choice([1, 1, 4, 50])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del content[place:]
    elif way == "repeat":
        content[place:place] = content[place : place + 100]
    elif way == "insert":
        content[place:place] = rng.randbytes(rng.randint(1, 50))
    else:
        content[place : place + 2000] = bytes(len(content[place : place + 2000]))
    target.write_bytes(content)


def read_entries(source: Path) -> Dict[str, bytes]:
    """The archive's entries."""
    with zipfile.ZipFile(source) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(target: Path, entries: List[Any]) -> None:
    """Write (name, bytes, compression) as an archive, whose checksums are right."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, content, compression in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compression)


def change_archive(source: Path, target: Path, rng: random.Random) -> None:
    """Drop, double, compress, cut or rename an entry, or blow it up."""
    entries = [[name, content, zipfile.ZIP_STORED] for name, content in read_entries(source).items()]
    chosen = rng.randrange(len(entries))
    way = rng.choice(["drop", "double", "compress", "cut", "bomb", "rename"])
    if way == "drop":
        del entries[chosen]
    elif way == "double":
        entries.append([entries[chosen][0], rng.choice(entries)[1], 0])
    elif way == "compress":
        entries[chosen][2] = zipfile.ZIP_DEFLATED
    elif way == "cut":
        entries[chosen][1] = entries[chosen][1][: rng.randrange(len(entries[chosen][1]) + 1)]
    elif way == "bomb":
        entries[chosen][1:] = [bytes(50_000_000), zipfile.ZIP_DEFLATED]
    else:
        entries[chosen][0] = rng.choice(["../x", "", "x" * 300, "hubert/data/999"])
    write_entries(target, entries)


def change_pickle(source: Path, target: Path, rng: random.Random) -> None:
    """Change bytes of the pickle: instructions, numbers, names; the checksums are right."""
    entries = read_entries(source)
    name = next(name for name in entries if name.endswith("data.pkl"))
    content = bytearray(entries[name])
    for _ in range(rng.choice([1, 2, 5, 20])):
        place = rng.randrange(len(content))
        way = rng.choice(["any", "instruction", "delete", "insert"])
        if way == "any":
            content[place] = rng.randrange(256)
        elif way == "instruction":
            content[place] = rng.choice(b"().0NKMJ}]tqhQRbsueaX\x8a\x88\x85\x86\x87\x93\x94c")
        elif way == "delete":
            del content[place]
        else:
            content.insert(place, rng.randrange(256))
    entries[name] = bytes(content)
    write_entries(target, [(name, content, zipfile.ZIP_STORED) for name, content in entries.items()])


TENSORS: Dict[str, Callable[[torch.Tensor], Any]] = {
    "long": lambda w: w.long(),
    "bool": lambda w: w > 0,
    "complex": lambda w: w.to(torch.complex64),
    "conjugate": lambda w: w.to(torch.complex64).conj(),
    "sparse": lambda w: w.to_sparse(),
    "nested": lambda w: torch.nested.nested_tensor([w.flatten(), w.flatten()[:1]]),
    "expanded": lambda w: w.flatten()[:1].clone().expand(w.shape),
    "expanded half": lambda w: w.flatten()[:1].half().clone().expand(4096, 65536),
    "huge": lambda w: torch.zeros(1).expand(1 << 40),
    "nan": lambda w: w * float("nan"),
    "infinity": lambda w: w + float("inf"),
    "empty": lambda w: w.new_zeros(0),
    "scalar": lambda w: w.new_zeros(()),
    "double": lambda w: w.double(),
    "transposed": lambda w: w.t().contiguous().t() if w.dim() == 2 else w,
    "parameter": torch.nn.Parameter,
    "list": lambda w: [1, 2],
    "text": lambda w: "x" * 1000,
    "none": lambda w: None,
}
VALUES = [-(10**9), -1, 0, 1, 3, 10**8, 10**30, 1.5, float("nan"), float("inf"), None, True, "", "x" * 500_000]
VALUES += [
    "[(512,10,5)]" * 1000,
    "[(10**9,10,5)]",
    [],
    [0] * 3,
    [-1] * 3,
    [10**12] * 3,
    {"a": {}},
    [[1]],
    "__import__('os')",
]


def change_tensor(source: Path, target: Path, rng: random.Random) -> None:
    """Save one weight as another kind of tensor."""
    state = torch.load(source, weights_only=False)
    floating = [key for key, value in state["model"].items() if value.is_floating_point()]
    key = rng.choice(floating)
    state["model"][key] = TENSORS[rng.choice(list(TENSORS))](state["model"][key].detach())
    torch.save(state, target)


def change_settings(source: Path, target: Path, rng: random.Random) -> None:
    """Give one or two settings a value that makes no sense."""
    state = torch.load(source, weights_only=False)
    section = state["cfg"].get("model", state["cfg"])
    for _ in range(rng.choice([1, 1, 2])):
        section[rng.choice([*section, "layer_heads", "time_reduction", "reuse_attention", "head_dim", "prune"])] = (
            rng.choice(VALUES)
        )
    torch.save(state, target)


KINDS = {
    "bytes": change_bytes,
    "archive": change_archive,
    "pickle": change_pickle,
    "tensor": change_tensor,
    "settings": change_settings,
}


def find_problem(path: Path, original: Dict[str, torch.Tensor], must_be_same: bool) -> Optional[str]:
    """What goes wrong with a file, or None."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        encoder = load_encoder(path)
        weights = encoder.state_dict()
        if must_be_same and not all(key in original and torch.equal(weights[key], original[key]) for key in weights):
            return "accepted with other weights"
        with torch.no_grad():
            out = encoder(torch.randn(1, encoder.cfg.shortest_wave + 400))
        if not torch.isfinite(out.x).all():
            return "accepted, features are not finite"
    except UserError as error:
        if len(str(error)) > 1500 or str(path) not in str(error):
            return f"message of {len(str(error))} characters, or without the file: {str(error)[:200]}"
    except Exception:
        return traceback.format_exc()
    for words in (["info", str(path)], ["prune", str(path), str(path) + ".out"]):
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = run_command(words)
            except Exception:
                return traceback.format_exc()
        if code not in (0, 1) or "Traceback" in stderr.getvalue():
            return f"{words[0]} exits with {code}: {stderr.getvalue()[-500:]}"
    seconds = time.monotonic() - start
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if seconds > MAX_SECONDS:
        return f"took {seconds:.1f} s"
    if grown > 2 * path.stat().st_size + MAX_EXTRA_BYTES:
        return f"took {grown >> 20} MB for a file of {path.stat().st_size >> 10} kB"
    return None


def main() -> int:
    """Fuzz, and print a table: files of each kind, accepted and refused, problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="files to make (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes (default 0)")
    parser.add_argument("--keep", type=Path, help="folder for files that show a problem")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tried: Counter = Counter()
    problems: List[str] = []
    with tempfile.TemporaryDirectory() as folder:
        originals = write_originals(Path(folder))
        weights = {path: load_encoder(path).state_dict() for path in originals}
        for number in tqdm(range(args.count), mininterval=10):
            rng = random.Random(f"{args.seed}/{number}")
            kind = list(KINDS)[number % len(KINDS)]
            source = rng.choice(originals)
            path = Path(folder) / f"{number}_{kind}_{source.name}"
            KINDS[kind](source, path, rng)
            problem = find_problem(path, weights[source], kind in ("bytes", "archive"))
            tried[kind] += 1
            if problem:
                problems.append(f"{path.name}: {problem}")
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / path.name).write_bytes(path.read_bytes())
            for left in (path, Path(str(path) + ".out")):
                left.unlink(missing_ok=True)
    print("\n".join(problems))
    print(", ".join(f"{kind}: {count} files" for kind, count in tried.items()) + f"; {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
