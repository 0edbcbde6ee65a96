"""Write docs/settings.md: every setting of our tasks, models and criterions, from the help in their dataclasses.

    python docs/make_settings.py            write the page
    python docs/make_settings.py --check    exit with 1 if the page is not current

The dataclasses are found through fairseq's registries, so it does not matter which file they are in. The page is the
same on both stacks: a setting is listed if a class of ours declares it, in the order of that class; of what fairseq's
own HubertConfig declares, whose fields and help differ between versions, INHERITED names what is listed.
"""

import argparse
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import fairseq_distill  # noqa: F401  registers our classes
from fairseq_distill.multitask.task_list import KINDS

PAGE = Path(__file__).with_name("settings.md")
SECTIONS = {
    "task": TASK_DATACLASS_REGISTRY,
    "criterion": REGISTRIES["criterion"]["dataclass_registry"],
    "model": MODEL_DATACLASS_REGISTRY,
}

# Those of HubertConfig's settings that recipes give or that a shape is made of, in our words: fairseq's help is not the
# same in all its versions
INHERITED = {
    "encoder_layers": "transformer layers",
    "encoder_embed_dim": "width of the layers",
    "encoder_ffn_embed_dim": "feed-forward neurons of a layer",
    "encoder_attention_heads": "attention heads of a layer",
    "conv_feature_layers": "the convolution stack: a list of (channels, kernel, stride); it is parsed, never evaluated",
    "conv_bias": "biases in the convolution stack",
    "extractor_mode": "norm of the convolution stack: default = a group norm after the first convolution (Base); "
    "layer_norm = a layer norm after each (Large)",
    "layer_norm_first": "norms before attention and feed-forward part (pre-norm, Large), not after (post-norm, Base)",
    "conv_pos": "kernel of the positional convolution, in frames",
    "conv_pos_groups": "groups of the positional convolution",
    "feature_grad_mult": "factor on the gradients of the convolution stack; 0 = it is not trained",
    "dropout": "dropout after attention, after the feed-forward part, and on the layers' input",
    "attention_dropout": "dropout of attention weights",
    "activation_dropout": "dropout inside the feed-forward part",
    "dropout_input": "dropout of the projected features",
    "dropout_features": "dropout of an unmasked copy of the features, which HuBERT's objective does not use",
    "encoder_layerdrop": "chance of a layer to be skipped in training; distillation needs 0, since layers are compared",
    "mask_prob": "share of the frames that are masked where an objective masks (in spans, so somewhat less)",
    "mask_length": "frames of a masked span",
    "mask_selection": "how lengths of spans are drawn: static, uniform, normal or poisson",
    "no_mask_overlap": "masked spans do not overlap",
    "mask_channel_prob": "share of the channels that are masked",
    "mask_channel_length": "channels of a masked span",
    "final_dim": "masked prediction: width that outputs and units are compared in; 0 = encoder_embed_dim",
    "untie_final_proj": "masked prediction: a projection for each set of labels",
    "checkpoint_activations": "run layers again in the backward pass, keeping less in memory: slower",
}

INTRODUCTION = """\
# Settings

<!-- written by `python docs/make_settings.py`; change the help in the dataclasses instead -->

Every setting that this project adds to fairseq: in a recipe, or on the command line as `section.name=value`, with a `+`
before it if the recipe does not have the name. Everything else (`common`, `dataset`, `optimization`, `optimizer`,
`lr_scheduler`, `checkpoint`, `distributed_training`) is fairseq's own. *Required* must be given; *empty* is `""`, and
*none* is `null`, on the command line too.
"""


class Row(NamedTuple):
    """A setting: its name, its default as text, what it means."""

    name: str
    default: str
    meaning: str


def list_own_settings(dataclass: type) -> List[Row]:
    """The settings that classes of this project declare, in the order of the source; those of base classes follow."""
    rows: Dict[str, Row] = {}
    for cls in dataclass.__mro__:
        if not cls.__module__.startswith("fairseq_distill."):
            continue
        for name in cls.__dict__.get("__annotations__", {}):
            rows.setdefault(name, describe(dataclass, name))
    return list(rows.values())


def describe(dataclass: type, name: str, meaning: str = "") -> Row:
    """A field of a dataclass as a row."""
    field = dataclass.__dataclass_fields__[name]
    default = getattr(dataclass(), name)
    meaning = meaning or field.metadata.get("help") or ""
    if not meaning:
        raise SystemExit(f"{dataclass.__module__}.{dataclass.__name__}.{name} has no help")
    choices = (
        [str(c.value) for c in field.type] if isinstance(field.type, type) and issubclass(field.type, Enum) else []
    )
    if any(choice not in meaning for choice in choices):
        meaning = f"{meaning}; one of {', '.join(choices)}"
    return Row(name, format_default(default), meaning)


def format_default(value: Any) -> str:
    """A default as one types it."""
    value = getattr(value, "value", value)
    if value == "???":
        return "*required*"
    if value is None or value == "":
        return "*none*" if value is None else "*empty*"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{str(list(value)).replace(' ', '')}`" if isinstance(value, (list, tuple)) else f"`{value}`"


def format_table(rows: List[Row], prefix: str) -> str:
    """A markdown table."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for row in rows:
        cells = (f"`{prefix}{row.name}`", row.default, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def split_shared(tables: Dict[str, List[Row]]) -> Tuple[List[Row], Dict[str, List[Row]]]:
    """(rows that all tables have alike, the tables without them)."""
    first, *others = tables.values()
    shared = [row for row in first if all(row in rows for rows in others)]
    return shared, {name: [row for row in rows if row not in shared] for name, rows in tables.items()}


def read_attributes(cls: type) -> Dict[str, str]:
    """Name -> description, of the Attributes in a docstring; a line may describe several names at once."""
    found: Dict[str, str] = {}
    names: List[str] = []
    section = (cls.__doc__ or "").partition("Attributes:")[2]
    for line in filter(str.strip, section.splitlines()):
        start, colon, text = line.strip().partition(": ")
        if colon and all(name.isidentifier() for name in start.split(", ")):
            names = start.split(", ")
            found.update(dict.fromkeys(names, text))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def format_heads() -> str:
    """The entries of `task.tasks`, by kind of task."""
    parts = []
    for kind, cls in KINDS.items():
        meanings: Dict[str, str] = {}
        for base in reversed(cls.__mro__):
            meanings.update(read_attributes(base))
        rows = []
        for name, field in cls.__dataclass_fields__.items():
            if name == "kind":
                continue
            default = "*required*" if name == "name" else format_default(field.default)
            rows.append(Row(name, default, meanings[name].rstrip(".")))
        parts.append(f"`kind: {kind}`\n\n{format_table(rows, '')}")
    return "### The list `task.tasks`\n\nA mapping for each task, as in `config/finetune/kws_sv.yaml`.\n\n" + "\n".join(
        parts
    )


def make_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for section, registry in SECTIONS.items():
        ours = {key: cls for key, cls in registry.items() if (cls.__module__ or "").startswith("fairseq_distill.")}
        ours = {key: cls for key, cls in sorted(ours.items()) if key.startswith("speech_")}
        tables = {key: list_own_settings(cls) for key, cls in ours.items()}
        if section == "model":  # an encoder's settings, of which there are many
            shared, tables = split_shared(tables)
            parts.append(f"## Both models\n\n{format_table(shared, 'model.')}")
        for key, rows in tables.items():
            parts.append(f"## {section.capitalize()} `{key}`\n\n{format_table(rows, section + '.')}")
            if key == "speech_multitask" and section == "task":
                parts.append(format_heads())
        if section == "model":
            student = ours["speech_student"]
            rows = [describe(student, name, meaning) for name, meaning in INHERITED.items()]
            parts.append(
                "## Inherited from fairseq's `HubertConfig`\n\nThe same for both models: what shapes are made of and "
                f"what recipes give. The others are as in fairseq.\n\n{format_table(rows, 'model.')}"
            )
    return "\n".join(parts)


def main() -> int:
    """Write or check the page; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/settings.md from the dataclasses.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is not current")
    page = make_page()
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
