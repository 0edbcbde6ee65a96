"""Short runs of speech_multitask through fairseq-hydra-train on noise with labels."""

from pathlib import Path

from ..tasks.runs import ROOT, command, run, write_data

KEYWORDS = ["no", "yes", "", "yes", "no", "yes", "no", ""]
SPEAKERS = ["ann", "bob", "cid", "", "ann", "bob", "", "cid"]


def write_labels(folder: Path, split: str, **labels) -> None:
    """A label file beside SPLIT.tsv for each keyword."""
    for name, lines in labels.items():
        (folder / f"{split}.{name}").write_text("".join(f"{line}\n" for line in lines))


def write_labelled(folder: Path, speakers=SPEAKERS) -> Path:
    """Manifests of eight waves of noise with keywords and speakers, of whom dan is in no training set."""
    write_data(folder)
    write_labels(folder, "train", keyword=KEYWORDS, speaker=speakers)
    write_labels(folder, "valid", keyword=KEYWORDS, speaker=[*speakers[:-1], "dan"])
    return folder


def fine_tune(out: Path, data: Path, init, recipe="kws_sv", check=True, **overrides):
    """Run a recipe for a few updates; returns (finished process, JSON logs)."""
    settings = {
        "+machine": "cpu",
        "task.data": data,
        "model.init": init,
        "dataset.batch_size": 4,
        "dataset.num_workers": 0,
        "optimization.max_update": 4,
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": out,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return run(command(ROOT / "config" / "finetune", recipe, settings), check)
