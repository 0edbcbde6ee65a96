"""LibriSpeech (Panayotov et al., 2015): read English, in subsets that are downloads of their own.

    LibriSpeech/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac    16 kHz mono
    LibriSpeech/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt    `SPEAKER-CHAPTER-NNNN WORDS IN CAPITALS` a line

The subsets are train-clean-100, train-clean-360, train-other-500 (281,241 utterances in all), dev-clean, dev-other,
test-clean and test-other; smaller selections (train-clean-5, dev-clean-2) have the same layout. No speaker is in two
subsets.
"""

import argparse
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Union

from tqdm import tqdm

from ..data.labels import read_lines
from ..errors import UserError
from .output import NewFolder, Report
from .tokens import Letters, Pieces, count_tokens, load_sentencepiece
from .utterances import LeftOut, Utterance, keep_usable, list_files, list_folders

HELP = "LibriSpeech: speech recognition"
EPILOG = """\
Writes each split with .speaker, .wrd (words) and .ltr (letters, `|` after each word), and dict.ltr.txt; with --pieces
also .spm (sentencepiece pieces), dict.spm.txt and the model itself, spm.model. Tokens and dictionaries are those of the
training transcripts. Stock fairseq reads the folder: task._name=audio_finetuning task.data=OUT task.labels=ltr.

example:
  fairseq-distill manifest librispeech LibriSpeech --train train-clean-100 --valid dev-other --pieces 1000 --out letters
"""

FIRST = {"train": None, "valid": "dev-clean", "test": "test-clean"}  # taken alone where it is there
_MOST_PIECES = 1_000_000
PREFIX = {"train": "train-", "valid": "dev-", "test": "test-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the corpus' own arguments."""
    parser.add_argument(
        "--train", metavar="SUBSET", nargs="+", help="subsets for train (default: every train-* of DIR)"
    )
    parser.add_argument(
        "--valid", metavar="SUBSET", nargs="+", help="for valid (default: dev-clean, else the first dev-*)"
    )
    parser.add_argument(
        "--test", metavar="SUBSET", nargs="+", help="for test (default: test-clean, else the first test-*)"
    )
    parser.add_argument(
        "--pieces",
        metavar="N",
        type=int,
        help="also write a sentencepiece model of N pieces, <unk>, <s> and </s> among them (1000 is usual), and .spm",
    )


def write(args: argparse.Namespace, source: Path, folder: NewFolder) -> Report:
    """Write each split with .speaker, .wrd and .ltr, with .spm if asked for, and the dictionaries of train's tokens.

    `source` is the folder of the subsets, or the one that holds it as LibriSpeech.

    Raises:
        UserError: a subset is missing, nothing is left of a split, or no model of this size can be trained.
    """
    if (source / "LibriSpeech").is_dir():
        source = source / "LibriSpeech"
    if args.pieces is not None and not 1 <= args.pieces <= _MOST_PIECES:
        raise UserError(f"--pieces {args.pieces}: give a number of pieces, such as 1000, at most {_MOST_PIECES}")
    subsets = choose_subsets(source, vars(args))
    if args.pieces is not None:
        load_sentencepiece()  # before the work: it may not be there
    report = Report(args.sample_rate)
    splits = {name: _find_utterances(source, name, subsets[name], report.left_out) for name in subsets}
    splits = {name: keep_usable(source, name, found, report.left_out, report.rate) for name, found in splits.items()}
    _add_tokens(folder, splits, Letters(), report)
    if args.pieces is not None:
        texts = [utterance.labels["wrd"] for utterance in splits["train"]]
        _add_tokens(folder, splits, Pieces(texts, args.pieces, folder.partial / "spm.model"), report)
    report.write_splits(folder, source, splits)
    report.notes += [f"{name}: {', '.join(of_split)}" for name, of_split in subsets.items()]
    report.notes += [f"no {name}: {source} has no {PREFIX[name]}*" for name in FIRST if name not in subsets]
    return report


def choose_subsets(source: Path, chosen: Mapping[str, Optional[Sequence[str]]]) -> Dict[str, List[str]]:
    """The subsets of each split: `chosen`, or by what is there all of train, one of dev and one of test, clean first.

    Raises:
        UserError: there is none for train, one is not there, or is in two splits.
    """
    present = [path.name for path in list_folders(source)]
    subsets = {}
    for name, first in FIRST.items():
        found = [subset for subset in present if subset.startswith(PREFIX[name])]
        default = found if first is None else [first] if first in found else found[:1]
        subsets[name] = list(chosen.get(name) or default)
        for subset in subsets[name]:
            if subset not in present:
                raise UserError(f"--{name} {subset}: {source} has only {', '.join(present) or 'no folder'}")
    names = [subset for of_split in subsets.values() for subset in of_split]
    for subset in sorted(names):
        if names.count(subset) > 1:
            raise UserError(f"{subset} is given twice: each subset can be in one split, by --train, --valid and --test")
    if not subsets["train"]:
        raise UserError(
            f"{source} has no train-* subset, and labels are made of train's transcripts: name one by --train"
        )
    return {name: of_split for name, of_split in subsets.items() if of_split}


def _find_utterances(source: Path, split: str, subsets: Sequence[str], left_out: LeftOut) -> List[Utterance]:
    """The utterances of a split that have audio and a transcript."""
    utterances = []
    speakers = [path for subset in subsets for path in list_folders(source / subset)]
    chapters = [path for speaker in speakers for path in list_folders(speaker)]
    for chapter in tqdm(chapters, desc=f"reading transcripts of {split}", unit="chapter", delay=5, leave=False):
        texts = _read_transcripts(chapter)
        for file in list_files(chapter, ".flac"):
            path, text = str(file.relative_to(source)), texts.pop(file.stem, None)
            if text:
                utterances.append(Utterance(path, {"speaker": chapter.parent.name, "wrd": text}))
            else:
                left_out.add(split, "no transcript" if text is None else "empty transcript", path)
        for name in texts:
            left_out.add(split, "a transcript without audio", f"{chapter.relative_to(source)}/{name}")
    return utterances


def _read_transcripts(chapter: Path) -> Dict[str, str]:
    """Utterance -> words, single spaces between them, of the chapter's transcripts."""
    rows = (line.split() for path in list_files(chapter, ".trans.txt") for line in read_lines(path) if line)
    return {name: " ".join(words) for name, *words in rows}


def _add_tokens(
    folder: NewFolder, splits: Dict[str, List[Utterance]], tokenizer: Union[Letters, Pieces], report: Report
) -> None:
    """Label every utterance with the tokens of its words, and write the dictionary of train's."""
    ending = tokenizer.ending
    for utterances in splits.values():
        for utterance in tqdm(utterances, desc=f"tokens .{ending}", unit="utterance", delay=5, leave=False):
            utterance.labels[ending] = tokenizer.split(utterance.labels["wrd"])
    dictionary = tokenizer.order(count_tokens([utterance.labels[ending] for utterance in splits["train"]]))
    folder.write_text(f"dict.{ending}.txt", [f"{token} {count}" for token, count in dictionary.items()])
    report.notes.append(f"dict.{ending}.txt: {len(dictionary):,} tokens")
    for name, utterances in splits.items():
        unknown = count_tokens([utterance.labels[ending] for utterance in utterances]).keys() - dictionary.keys()
        if unknown:
            report.notes.append(
                f"{name}.{ending}: fairseq will read <unk> for what train does not have, {' '.join(sorted(unknown))}"
            )
