"""Speech recognition by a model that fairseq fine-tuned by CTC: greedy decoding, word and character error rates."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process
from fairseq.models import BaseFairseqModel

from ..checkpoints.reading import read_checkpoint
from ..checkpoints.safe_load import read_pickled, to_plain
from ..data.labels import read_labels
from ..data.manifest import Manifest, read_manifest
from ..data.waves import process_waves
from ..errors import UserError
from .bootstrap import DRAWS, SEED, ratio_interval

MODELS = ("hubert_ctc", "wav2vec_ctc")
TASKS = ("audio_finetuning", "hubert_pretraining")  # the latter is that of released HuBERT models
TRANSCRIPT_ENDINGS = ("ltr", "spm")
PIECE_MARK = "\u2581"  # begins a word in sentencepiece's pieces


class Recogniser(NamedTuple):
    """A model of fairseq's that was fine-tuned by CTC.

    Attributes:
        model: in evaluation mode, on the CPU.
        dictionary: its tokens.
        blank: number of the token that stands for none.
        normalize: waves are normalised first.
        sample_rate: of the waves.
        shortest: samples that make a frame.
        labels: ending of the label files that it was trained on.
    """

    model: BaseFairseqModel
    dictionary: Dictionary
    blank: int
    normalize: bool
    sample_rate: int
    shortest: int
    labels: str


@dataclass
class Utterance:
    """One utterance, what was said and what was recognised, and the distances between the two."""

    path: str
    reference: str
    hypothesis: str

    def __post_init__(self) -> None:
        words, found = self.reference.split(), self.hypothesis.split()
        self.words, self.word_errors = len(words), _distance(found, words)
        self.characters, self.character_errors = len(self.reference), _distance(self.hypothesis, self.reference)


def evaluate_ctc(
    checkpoint: Path, data: Path, split: str = "test", labels: Optional[str] = None, show: int = 0
) -> Dict[str, Any]:
    """Recognise the utterances of a split and count errors.

    Args:
        checkpoint: a `hubert_ctc` or `wav2vec_ctc` model that fairseq wrote.
        data: folder with SPLIT.tsv and SPLIT.LABELS; and dict.LABELS.txt if the checkpoint has no dictionary inside.
        split: name of the manifest.
        labels: ending of the references; None = of those that the checkpoint was trained on.
        show: how many of the worst utterances to return, and how many random ones.

    Returns:
        what `--json` prints: "wer" and "cer" are errors to words and to characters (spaces between words count too),
        each with its 95 % bootstrap interval over utterances.

    Raises:
        UserError: the checkpoint is not fine-tuned by CTC, a file is missing or wrong, or too much audio is broken.
    """
    start = time.monotonic()
    data = Path(data)
    recogniser = load_recogniser(checkpoint, data)
    labels = labels or recogniser.labels
    manifest = read_manifest(data / f"{split}.tsv")
    lines = read_labels(data / f"{split}.{labels}", len(manifest.paths))
    references = join_tokens(lines, f"{data}/{split}.{labels}")
    if not any(references):
        raise UserError(f"{data}/{split}.{labels} holds no words")
    utterances, skipped = recognise(recogniser, manifest, references)
    names = ("words", "word_errors", "characters", "character_errors")
    words, word_errors, characters, character_errors = counts = np.array(
        [[getattr(utterance, name) for utterance in utterances] for name in names]
    )
    result = {
        "checkpoint": str(checkpoint),
        "data": str(data),
        "split": split,
        "labels": labels,
        "utterances": len(utterances),
        "skipped": skipped,
        **dict(zip(names, counts.sum(axis=1).tolist())),
        "wer": float(word_errors.sum() / words.sum()),
        "wer_interval": list(ratio_interval(word_errors, words)),
        "cer": float(character_errors.sum() / characters.sum()),
        "cer_interval": list(ratio_interval(character_errors, characters)),
        "bootstrap": {"draws": DRAWS, "seed": SEED},
    }
    if show:
        result.update(choose_examples(utterances, show))
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def load_recogniser(checkpoint: Path, data: Path) -> Recogniser:
    """Open a fine-tuned checkpoint through fairseq, with the dictionary inside it or else the one in `data`.

    Raises:
        UserError: the file cannot be read or is refused, is no CTC model, or there is no dictionary.
    """
    state = read_pickled(checkpoint)
    settings = to_plain(state.get("cfg") or state.get("args") or {}) if isinstance(state, dict) else {}
    # one namespace for all before fairseq had sections
    model, task = (settings[name] if isinstance(settings.get(name), dict) else settings for name in ("model", "task"))
    names = model.get("_name") or model.get("arch"), task.get("_name") or task.get("task")
    if names[0] not in MODELS or names[1] not in TASKS:
        raise UserError(
            f"{checkpoint} is the model {names[0]} of the task {names[1]}, but evaluate ctc recognises speech with "
            f"{' or '.join(MODELS)} of fairseq's task {TASKS[0]}: fine-tune it (recipes ctc_letters, ctc_pieces)"
        )
    labels = task["labels"] if isinstance(task["labels"], str) else task["labels"][0]
    if "target_dictionary" not in (state.get("task_state") or {}) and not (data / f"dict.{labels}.txt").is_file():
        raise UserError(f"{checkpoint} has no dictionary inside, and there is no {data}/dict.{labels}.txt: add it")
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint), {"data": str(data)})
    _add_unit_dictionary(state)
    encoder = read_checkpoint(checkpoint).config
    (network,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
    return Recogniser(
        network.eval().float(),
        task.target_dictionary,
        task.target_dictionary.index(task.blank_symbol),
        bool(task.cfg.normalize),
        encoder.sample_rate,
        encoder.shortest_wave,
        labels,
    )


def _add_unit_dictionary(state: Dict[str, Any]) -> None:
    """Add a dictionary of pre-training units: stock HuBERT is not built without, and `audio_finetuning` keeps none."""
    embeddings = state["model"].get("w2v_encoder.w2v_model.label_embs_concat")
    stored = state.setdefault("task_state", {})
    if embeddings is not None and "dictionaries" not in stored:
        units = Dictionary()
        for number in range(len(embeddings) - len(units)):  # its length is all that matters
            units.add_symbol(str(number))
        stored["dictionaries"] = [units]


def recognise(
    recogniser: Recogniser, manifest: Manifest, references: List[str]
) -> Tuple[List[Utterance], Dict[str, int]]:
    """Recognise each utterance that has a reference, alone: padding would change a group-norm extractor's statistics.

    References are the words of each row of the manifest, "" where they are not known.

    Returns:
        (utterances, number of rows that were left out for which reason).

    Raises:
        UserError: over 1 % of the files cannot be used.
    """
    rows = [row for row, text in enumerate(references) if text]
    decode_wave = partial(decode, recogniser)
    found, unreadable = process_waves(
        manifest, rows, recogniser.sample_rate, recogniser.shortest, decode_wave, "recognising"
    )
    unreadable.log()
    texts = join_tokens(list(found.values()), "the model's dictionary", recogniser.dictionary.symbols)
    utterances = [Utterance(manifest.paths[row], references[row], text) for row, text in zip(found, texts)]
    return utterances, {"unreadable": len(unreadable), "unlabelled": len(references) - len(rows)}


@torch.inference_mode()
def decode(recogniser: Recogniser, wave: torch.Tensor) -> str:
    """Tokens of a wave (samples,), joined by spaces: the best of each frame, repeats and blanks taken out."""
    if recogniser.normalize:
        wave = F.layer_norm(wave, wave.shape)
    out = recogniser.model(source=wave[None], padding_mask=torch.zeros(1, len(wave), dtype=torch.bool))
    scores = recogniser.model.get_normalized_probs(out, log_probs=True)[:, 0]  # (frames, tokens)
    tokens = scores.argmax(dim=1).unique_consecutive()
    return recogniser.dictionary.string(tokens[tokens != recogniser.blank])


def join_tokens(lines: List[str], source: str, symbols: Optional[List[str]] = None) -> List[str]:
    """Tokens separated by spaces -> words separated by one space, as fairseq does it for letters and for pieces.

    Args:
        lines: one an utterance.
        source: where they come from, for the message.
        symbols: all tokens there are; None = those in `lines`.

    Raises:
        UserError: the tokens are neither letters (with | between words) nor sentencepiece's (with its mark).
    """
    symbols = symbols if symbols is not None else [token for line in lines for token in line.split()]
    pieces = any(token.startswith(PIECE_MARK) for token in symbols)
    if not pieces and "|" not in symbols:
        raise UserError(f"{source} has neither letters with | behind words nor pieces with {PIECE_MARK} before them")
    return [" ".join(post_process(line, "sentencepiece" if pieces else "letter").split()) for line in lines]


def choose_examples(utterances: List[Utterance], count: int) -> Dict[str, List[Dict[str, Any]]]:
    """`count` utterances of the highest word error rate as "worst", the first of equals; as many random as "random"."""
    rows = [vars(utterance) for utterance in utterances]
    drawn = np.random.default_rng(SEED).choice(len(rows), min(count, len(rows)), replace=False)
    worst = sorted(rows, key=lambda row: -row["word_errors"] / row["words"])
    return {"worst": worst[:count], "random": [rows[i] for i in sorted(drawn)]}


def _distance(found: Any, wanted: Any) -> int:
    """Least number of substitutions, insertions and deletions that turn one sequence into the other."""
    try:
        import editdistance
    except ImportError as error:
        raise UserError(
            "evaluate ctc counts errors with editdistance, as fairseq does: pip install editdistance"
        ) from error
    return editdistance.eval(found, wanted)
