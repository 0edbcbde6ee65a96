"""Time and memory of our encoder and distillation step beside stock fairseq's HubertModel doing the same work.

    python benchmarks/compare_with_stock.py [--waves 2] [--seconds 5] [--rounds 9] [--threads 2]

HuBERT Base shape, random weights, float32, on the CPU. In one process the two sides run in turn (stock, ours, stock
again), and each round gives a ratio; the table has the median with the quartiles. "stock again / stock" is the noise
floor: what the same code gives against itself. Peak memory is the resident set of a process that does one side's work
only, weights included, less what it has after its imports.

encoder   all hidden states of a batch of waves, evaluation mode
step      DistilHuBERT's: teacher (12 layers, no gradient), student (2 layers), loss on layers 4, 8, 12, backward
"""

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Dict, List

import torch
import torch.nn.functional as F
from measuring import (
    add_options,
    describe_run,
    in_own_process,
    measure_peak,
    quartiles,
    save_stock_teacher,
    time_in_turn,
)

warnings.filterwarnings("ignore", category=FutureWarning)

LAYERS = (4, 8, 12)


def build_stock(path: Path, layers: int, train: bool):
    """Stock HubertModel with the first `layers` layers of the file."""
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel

    model = HubertModel(HubertConfig(label_rate=50, encoder_layers=layers), SimpleNamespace(sample_rate=16_000), [None])
    model.load_state_dict(torch.load(path, weights_only=True)["model"], strict=False)
    return model.train(train)


def run_stock(model, waves):
    """All layers' outputs of stock fairseq, each (batch, frames, width)."""
    features = model.layer_norm(model.forward_features(waves).transpose(1, 2))
    x, results = model.encoder.extract_features(model.post_extract_proj(features))
    return [result[0].transpose(0, 1) for result in results]


def distance(predictions, targets):
    """DistilHuBERT's loss, as its code writes it."""
    predictions, targets = torch.stack(predictions, 1), torch.stack(targets, 1)
    return F.l1_loss(predictions, targets) - F.logsigmoid(F.cosine_similarity(predictions, targets, dim=-1)).mean()


def make_work(name: str, side: str, path: Path, waves: torch.Tensor) -> Callable[[], None]:
    """The work of one side, as a function to time."""
    from fairseq_distill import load_encoder

    if name == "encoder":
        model = build_stock(path, 12, train=False) if side == "stock" else load_encoder(path)

        def forward() -> None:
            with torch.inference_mode():
                run_stock(model, waves) if side == "stock" else model(waves)

        return forward
    return make_stock_step(path, waves) if side == "stock" else make_our_step(path, waves)


def make_stock_step(path: Path, waves: torch.Tensor) -> Callable[[], None]:
    """Teacher and student are stock; heads, targets and loss in plain torch."""
    from fairseq_distill.distillation.heads import build_heads

    teacher, student = build_stock(path, 12, train=False), build_stock(path, 2, train=True)
    heads = build_heads("split", 768, 768, len(LAYERS))

    def step() -> None:
        with torch.no_grad():
            hidden = run_stock(teacher, waves)
        targets = [hidden[layer - 1] for layer in LAYERS]
        distance(heads([run_stock(student, waves)[-1]] * len(LAYERS)), targets).backward()
        student.zero_grad(set_to_none=True), heads.zero_grad(set_to_none=True)

    return step


def make_our_step(path: Path, waves: torch.Tensor) -> Callable[[], None]:
    """The task, model and criterion of the recipe."""
    from fairseq import tasks
    from omegaconf import OmegaConf

    model = {
        "_name": "speech_student",
        "init": str(path),
        "like_init": "layers",
        "encoder_layers": 2,
        "prediction_head": "split",
    }
    criterion = {"_name": "speech_distillation", "groups": [[layer] for layer in LAYERS], "predict_from": "last"}
    criterion.update(l1=1.0, cosine=0.0, log_sigmoid_cosine=1.0)
    task = {"_name": "speech_distillation", "data": ".", "teacher": str(path)}
    run = OmegaConf.create({"task": task, "model": model, "criterion": criterion})
    task = tasks.setup_task(run.task)
    student = task.build_model(run.model).train()
    loss = task.build_criterion(run.criterion)
    sample = {"net_input": {"source": waves}}

    def step() -> None:
        value, frames, _ = loss(student, sample)
        (value / frames).backward()
        student.zero_grad(set_to_none=True)

    return step


def compare_times(name: str, path: Path, waves: torch.Tensor, rounds: int) -> Dict[str, List[float]]:
    """Run both sides in turn; seconds of "stock", "ours" and "again" per round."""
    stock, ours = make_work(name, "stock", path, waves), make_work(name, "ours", path, waves)
    return time_in_turn({"stock": stock, "ours": ours, "again": stock}, rounds)


def measure_memory(name: str, side: str, path: Path, waves: torch.Tensor) -> float:
    """Peak MB of one side's work, weights included, beyond what the process has after its imports."""
    return measure_peak(lambda: make_work(name, side, path, waves))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, waves=2, seconds=5.0, rounds=9, threads=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    waves = torch.randn(args.waves, int(args.seconds * 16_000))
    if args.memory:
        print(json.dumps(measure_memory(args.memory[0], args.memory[1], Path(args.memory[2]), waves)))
        return
    print(describe_run(args))
    print(
        f"{'':<10}{'stock, s':>10}{'ours, s':>10}   {'ours / stock':<24}{'stock again / stock':<24}"
        f"{'peak MB, stock':>15}{'ours':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hubert_base.pt"
        save_stock_teacher(path)
        for name in ("encoder", "step"):
            t = compare_times(name, path, waves, args.rounds)
            memory = {side: in_own_process(name, side, path, args) for side in ("stock", "ours")}
            ratio = quartiles([ours / ((a + b) / 2) for ours, a, b in zip(t["ours"], t["stock"], t["again"])])
            floor = quartiles([b / a for a, b in zip(t["stock"], t["again"])])
            seconds = {side: statistics.median(t[side]) for side in ("stock", "ours")}
            print(
                f"{name:<10}{seconds['stock']:>10.2f}{seconds['ours']:>10.2f}   {ratio:<24}{floor:<24}"
                f"{memory['stock']:>15.0f}{memory['ours']:>8.0f}"
            )


if __name__ == "__main__":
    main()
