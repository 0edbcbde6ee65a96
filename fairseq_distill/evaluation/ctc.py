"""Speech recognition by a model that fairseq fine-tuned by CTC: greedy decoding; errors in units, words, characters."""

import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch

from ..checkpoints.ctc import CtcModel, read_ctc
from ..data.labels import read_labels
from ..data.manifest import Manifest, read_manifest
from ..data.token_dictionary import TokenDictionary, read_dictionary
from ..data.waves import process_waves
from ..errors import UserError
from .bootstrap import DRAWS, SEED, ratio_interval
from .transcripts import Reference, Utterance, find_marks, join_words, read_references

# each rate: what is counted, and its errors
RATES = {
    "uer": ("units", "unit_errors"),
    "wer": ("words", "word_errors"),
    "cer": ("characters", "character_errors"),
}


class Recogniser(NamedTuple):
    """A model that was fine-tuned by CTC, and its tokens.

    Attributes:
        model: in evaluation mode, on the CPU.
        dictionary: its tokens.
        labels: ending of the label files that it was trained on.
    """

    model: CtcModel
    dictionary: TokenDictionary
    labels: str

    @property
    def marks(self) -> Optional[str]:
        """How its tokens mark words, see `find_marks`."""
        return find_marks(self.dictionary.symbols, self.labels)


def evaluate_ctc(
    checkpoint: Path,
    data: Path,
    split: str = "test",
    labels: Optional[str] = None,
    show: int = 0,
    dictionary: Optional[Path] = None,
    pretrained: Optional[Path] = None,
) -> Dict[str, Any]:
    """Recognise the utterances of a split and count errors.

    Args:
        checkpoint: a `hubert_ctc` or `wav2vec_ctc` model that fairseq wrote.
        data: folder with SPLIT.tsv and SPLIT.LABELS; and dict.LABELS.txt if the checkpoint has no dictionary inside.
        split: name of the manifest.
        labels: ending of the references; None = of those that the checkpoint was trained on.
        show: how many of the worst utterances to return, and how many random ones.
        dictionary: file of the tokens; None = see `load_recogniser`.
        pretrained: see `read_ctc`.

    Returns:
        what `--json` prints: "uer", "wer" and "cer" are errors to units (tokens), to words and to characters of the
        words (spaces between them count too), each with its 95 % bootstrap interval over utterances; None where the
        references have no such thing.

    Raises:
        UserError: the checkpoint is not fine-tuned by CTC, a file is missing or wrong, or too much audio is broken.
    """
    start = time.monotonic()
    data = Path(data)
    recogniser = load_recogniser(checkpoint, data, labels, dictionary, pretrained)
    labels = labels or recogniser.labels
    manifest = read_manifest(data / f"{split}.tsv")
    file = data / f"{split}.{labels}"
    tokens = [line.split() for line in read_labels(file, len(manifest.paths), option="--labels")]
    if not any(tokens):
        raise UserError(f"{file} is empty: without references there is no error rate")
    references = read_references(tokens, labels, recogniser.dictionary.symbols, recogniser.marks)
    if not references.any_known:
        some = " ".join(recogniser.dictionary.symbols[4:8])
        raise UserError(
            f"no token of {file} is in the dictionary of {checkpoint} ({some} ...), which was trained on "
            f"{recogniser.labels}: give transcripts in its tokens (--labels)"
        )
    utterances, skipped = recognise(recogniser, manifest, references.rows)
    result = {
        "checkpoint": str(checkpoint),
        "data": str(data),
        "split": split,
        "labels": labels,
        "utterances": len(utterances),
        "skipped": skipped,
        "unit": references.unit,
        "unknown_units": sum(utterance.unknown_units for utterance in utterances),
        **count_errors(utterances),
        "bootstrap": {"draws": DRAWS, "seed": SEED},
    }
    if show:
        result.update(choose_examples(utterances, show))
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def count_errors(utterances: List[Utterance]) -> Dict[str, Any]:
    """Sums and rates over utterances, of `RATES`; None where references do not have what a rate counts."""
    result: Dict[str, Any] = {}
    for rate, names in RATES.items():
        if any(getattr(utterance, names[0]) is None for utterance in utterances):
            result.update(dict.fromkeys((*names, rate, f"{rate}_interval")))
            continue
        wholes, errors = (np.array([getattr(utterance, name) for utterance in utterances]) for name in names)
        result.update(zip(names, (int(wholes.sum()), int(errors.sum()))))
        result[rate] = float(errors.sum() / wholes.sum())
        result[f"{rate}_interval"] = list(ratio_interval(errors, wholes))
    return result


def load_recogniser(
    checkpoint: Path,
    data: Path,
    labels: Optional[str] = None,
    dictionary: Optional[Path] = None,
    pretrained: Optional[Path] = None,
) -> Recogniser:
    """Open a fine-tuned checkpoint and find its tokens: in `dictionary`, or inside it, or in `data`.

    Raises:
        UserError: the file cannot be read or is refused, it is no CTC model, or there is no dictionary of its size.
    """
    model, trained, tokens = read_ctc(checkpoint, pretrained)
    labels = trained or labels
    if not labels:
        raise UserError(f"{checkpoint} does not say what labels it was trained on (task.labels): give --labels")
    source = f"{checkpoint} (task_state)"
    if dictionary is not None or tokens is None:
        file = dictionary or data / f"dict.{labels}.txt"
        if dictionary is None and not file.is_file():
            raise UserError(f"{checkpoint} has no dictionary inside, and there is no {file}: add it, or give --dict")
        tokens, source = read_dictionary(file), str(file)
    outputs = model.output.out_features
    if len(tokens.symbols) != outputs:
        raise UserError(
            f"the dictionary in {source} has {len(tokens.symbols)} tokens, fairseq's own four among them, but "
            f"{checkpoint} scores {outputs}: it is another model's; give the one of its training (--dict)"
        )
    return Recogniser(model, tokens, labels)


def recognise(
    recogniser: Recogniser, manifest: Manifest, references: List[Optional[Reference]]
) -> Tuple[List[Utterance], Dict[str, int]]:
    """Recognise each utterance that has a reference, alone: padding would change a group-norm extractor's statistics.

    References are those of each row of the manifest, None where there is none.

    Returns:
        (utterances, number of rows that were left out for which reason).

    Raises:
        UserError: over 1 % of the files cannot be used.
    """
    said = {row: reference for row, reference in enumerate(references) if reference is not None}
    decode_wave = partial(decode, recogniser)
    cfg = recogniser.model.encoder.cfg
    found, unreadable = process_waves(
        manifest, list(said), cfg.sample_rate, cfg.shortest_wave, decode_wave, "recognising"
    )
    unreadable.log()
    symbols, eos, marks = recogniser.dictionary.symbols, recogniser.dictionary.eos, recogniser.marks
    utterances = []
    for row, numbers in found.items():
        # as fairseq: </s> counts among units, and is no part of a text
        text = join_words([symbols[number] for number in numbers if number != eos], marks) if marks else None
        units = [symbols[number] for number in numbers]
        utterances.append(Utterance(manifest.paths[row], said[row], units, text))
    return utterances, {"unreadable": len(unreadable), "unlabelled": len(references) - len(said)}


@torch.inference_mode()
def decode(recogniser: Recogniser, wave: torch.Tensor) -> List[int]:
    """Numbers of the tokens of a wave (samples,): the best of each frame, repeats and blanks taken out."""
    best = recogniser.model(wave[None])[0].argmax(dim=1).unique_consecutive().tolist()
    return [number for number in best if number not in recogniser.dictionary.blanks]


def choose_examples(utterances: List[Utterance], count: int) -> Dict[str, List[Dict[str, Any]]]:
    """`count` utterances of the highest error rate as "worst", the first of equals; as many random as "random".

    The rate is that of words, or of units where no words are marked.
    """
    rows = [vars(utterance) for utterance in utterances]
    drawn = np.random.default_rng(SEED).choice(len(rows), min(count, len(rows)), replace=False)
    whole, errors = RATES["uer" if rows[0]["words"] is None else "wer"]
    worst = sorted(rows, key=lambda row: -row[errors] / row[whole])
    return {"worst": worst[:count], "random": [rows[i] for i in sorted(drawn)]}
