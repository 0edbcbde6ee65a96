"""Recognisers that fairseq fine-tuned by CTC, as transformers has them: the output layer, tokens, what is compared."""

from pathlib import Path
from typing import Any, Dict, Optional
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..checkpoints.ctc import CtcCheckpoint, CtcModel, read_ctc
from ..data.token_dictionary import CTC_BLANK, TokenDictionary
from ..encoder.model import EncoderOutput, SpeechEncoder, require
from .folder import write_json
from .source import Source

_OUTPUT = "w2v_encoder.proj "  # how `Source.left_out` calls fairseq's output layer
# each step of an export asks for it, and the file is to be read once
_RECOGNISERS: "WeakKeyDictionary[SpeechEncoder, CtcCheckpoint]" = WeakKeyDictionary()
_SPECIAL = {"<s>", "<pad>", "</s>", "<unk>", CTC_BLANK}


def read_recogniser(source: Source) -> Optional[CtcCheckpoint]:
    """The recogniser around the encoder; None where there is no output layer for tokens.

    Raises:
        UserError: it is one that CTC did not train.
    """
    if not any(name.startswith(_OUTPUT) for name in source.left_out):
        return None
    if source.encoder not in _RECOGNISERS:
        _RECOGNISERS[source.encoder] = read_ctc(source.checkpoint.path)
    return _RECOGNISERS[source.encoder]


@torch.no_grad()
def convert_output(model: CtcModel) -> Dict[str, Tensor]:
    """The output layer as transformers' `lm_head`; what fairseq does to the blank's score becomes part of it."""
    weight, bias = model.output.weight.detach().clone(), model.output.bias.detach().clone()
    if model.blank_weight:
        if model.blank_mode == "set":
            weight[0], bias[0] = 0, 0
        bias[0] += model.blank_weight
    return {"lm_head.weight": weight, "lm_head.bias": bias}


class Recogniser(nn.Module):
    """What an exported recogniser is compared with: an encoder whose last state are scores.

    Args:
        encoder: with the way with padding of the exported one.
        head: `convert_output`'s.
    """

    def __init__(self, encoder: SpeechEncoder, head: Dict[str, Tensor]):
        super().__init__()
        self.encoder, self.cfg, self.normalize_input = encoder, encoder.cfg, encoder.normalize_input
        self.weight, self.bias = head["lm_head.weight"], head["lm_head.bias"]

    def encode(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> EncoderOutput:
        """The encoder's output with scores (batch, frames, tokens) as x, and its x as one hidden state more."""
        output = self.encoder.encode(source, padding_mask)
        x = require(output.x)
        return output._replace(x=nn.functional.linear(x, self.weight, self.bias), hidden=(*output.hidden, x))


def find_blank(dictionary: Optional[TokenDictionary]) -> int:
    """The number of the token that fairseq's decoders take for the blank."""
    if dictionary is None:
        return 0
    return dictionary.symbols.index(CTC_BLANK) if CTC_BLANK in dictionary.symbols else dictionary.bos


def describe_tokens(checkpoint: CtcCheckpoint) -> Dict[str, Any]:
    """What `config.json` says of tokens: transformers' blank is its padding."""
    dictionary = checkpoint.dictionary
    named = {} if dictionary is None else {"eos_token_id": dictionary.eos}
    return {"vocab_size": checkpoint.model.output.out_features, "pad_token_id": find_blank(dictionary), **named}


def write_tokens(path: Path, checkpoint: CtcCheckpoint) -> bool:
    """Write the tokenizer of letters; returns whether it could: tokens are in the file, and each is one letter.

    transformers has no tokenizer that joins pieces or phonemes of a CTC model; their numbers are in `vocab.json`.
    """
    dictionary = checkpoint.dictionary
    if dictionary is None or len(set(dictionary.symbols)) != checkpoint.model.output.out_features:
        return False
    numbers = {symbol: number for number, symbol in enumerate(dictionary.symbols)}
    blank = find_blank(dictionary)
    other = dictionary.symbols[blank]
    if "<pad>" in numbers:  # fairseq's padding is never said, so the two change their names
        numbers[other] = numbers["<pad>"]
    else:
        del numbers[other]
    numbers["<pad>"] = blank
    write_json(path / "vocab.json", dict(sorted(numbers.items(), key=lambda item: item[1])))
    letters = [symbol for symbol in dictionary.symbols if symbol not in _SPECIAL]
    if any(len(letter) != 1 for letter in letters if not letter.startswith("madeupword")):
        return False
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "word_delimiter_token": "|",
        "do_lower_case": False,
    }
    write_json(path / "tokenizer_config.json", settings)
    return True
