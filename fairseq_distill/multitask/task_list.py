"""The list `task.tasks` of a recipe: what each task is, where its labels are, and the shape of its head."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

import yaml
from omegaconf import OmegaConf

from ..errors import UserError


@dataclass(frozen=True)
class TaskSettings:
    """What all kinds of tasks have.

    Attributes:
        name: of the task in logs and in the model.
        kind: one of KINDS.
        label: ending of its label files: train.LABEL beside train.tsv. Default: the name.
        data: folders of its manifests; empty = task.data.
        weight: factor of its loss.
        sampling: how often it is drawn, against the other tasks; None = as often as there are labels.
        balanced: draw its classes equally often.
        layers: "sum" = a learned sum of all hidden states, 0 to the last; "last" = the encoder's final output.
        batch_norm: normalise the pooled vector over the batch, before the embedding or the classes.
    """

    name: str
    kind: str
    label: str = ""
    data: Tuple[str, ...] = ()
    weight: float = 1.0
    sampling: Optional[float] = None
    balanced: bool = False
    layers: str = "sum"
    batch_norm: bool = False


@dataclass(frozen=True)
class ClassificationSettings(TaskSettings):
    """Mean over frames and a linear layer.

    Attributes:
        hidden: units of a linear layer on every frame before the mean; 0 = none.
        activation: after that layer: "relu", or "none" as in SUPERB.
    """

    hidden: int = 0
    activation: str = "relu"


@dataclass(frozen=True)
class VerificationSettings(TaskSettings):
    """Pooled statistics, a linear embedding, and classes told apart by its angle with a margin.

    Attributes:
        pooling: "statistics" = mean and standard deviation; "attentive" = the same, weighted by learned attention.
        embedding_dim: width of the embedding.
        softmax: "am" (1801.05599) or "aam" (1801.07698): margin on the cosine or on the angle.
        scale, margin: of that softmax.
    """

    batch_norm: bool = True
    pooling: str = "statistics"
    embedding_dim: int = 192
    softmax: str = "am"
    scale: float = 30.0
    margin: float = 0.2


KINDS: Dict[str, Type[TaskSettings]] = {"classification": ClassificationSettings, "verification": VerificationSettings}
_CHOICES = {
    "layers": ("sum", "last"),
    "activation": ("relu", "none"),
    "pooling": ("statistics", "attentive"),
    "softmax": ("am", "aam"),
}
_POSITIVE = ("embedding_dim", "scale", "sampling")
_NOT_NEGATIVE = ("weight", "hidden", "margin")


def parse_tasks(given: Any) -> List[TaskSettings]:
    """The tasks that `task.tasks` lists: a list of mappings, plain, of omegaconf, or as YAML text.

    Raises:
        UserError: it is no such list, or an entry has an unknown key or kind, or a value that cannot be.
    """
    if OmegaConf.is_config(given):
        given = OmegaConf.to_container(given, resolve=True)
    if isinstance(given, str):
        try:
            given = yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise UserError(f"task.tasks is no YAML: {error}") from error
    if not isinstance(given, (list, tuple)) or not given:
        raise UserError(
            f"task.tasks={given!r} must be a list with an entry for each task, such as "
            "[{name: keyword, kind: classification}, {name: speaker, kind: verification}]"
        )
    tasks = [_parse_entry(number, entry) for number, entry in enumerate(given)]
    names = [task.name for task in tasks]
    for name in sorted(names):
        if names.count(name) > 1:
            raise UserError(f"task.tasks has {name} twice: every task needs a name of its own")
    return tasks


def _parse_entry(number: int, entry: Any) -> TaskSettings:
    where = f"task.tasks.{number}"
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}={entry!r} must be a mapping such as {{name: keyword, kind: classification}}")
    missing = [key for key in ("name", "kind") if not entry.get(key)]
    if missing:
        raise UserError(f"{where} lacks {' and '.join(missing)}: {dict(entry)}")
    kind = KINDS.get(entry["kind"])
    if kind is None:
        raise UserError(f"{where}.kind={entry['kind']} is none of {', '.join(KINDS)}")
    types = typing.get_type_hints(kind)
    unknown = [str(key) for key in entry if key not in types]
    if unknown:
        raise UserError(
            f"{where} has the unknown key {unknown[0]}; a task of kind {entry['kind']} has {', '.join(types)}"
        )
    values = {key: _convert(f"{where}.{key}", value, types[key]) for key, value in entry.items() if value is not None}
    if not values["name"].isidentifier() or values["name"] == "files":
        raise UserError(
            f"{where}.name={values['name']} must be letters, digits and underscores, no digit first, and not 'files'"
        )
    task = kind(**values)
    for key, value in values.items():
        if key in _CHOICES and value not in _CHOICES[key]:
            raise UserError(f"{where}.{key}={value} is none of {', '.join(_CHOICES[key])}")
        if (key in _POSITIVE and value <= 0) or (key in _NOT_NEGATIVE and value < 0):
            raise UserError(f"{where}.{key}={value} must {'be positive' if key in _POSITIVE else 'not be negative'}")
    return dataclasses.replace(task, label=task.label or task.name)


def _convert(where: str, value: Any, wanted: Any) -> Any:
    """`value` as the type `wanted`; UserError if it is none."""
    if wanted == Optional[float]:
        wanted = float
    if wanted == Tuple[str, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
            return tuple(item.strip() for item in items if item.strip())
    elif wanted is float and type(value) in (int, float):
        return float(value)
    elif type(value) is wanted:
        return value
    kinds = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    raise UserError(f"{where}={value!r} must be {kinds.get(wanted, 'a folder, or a list of folders')}")
