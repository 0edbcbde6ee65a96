"""A task's head: which layers it listens to, pooling over frames, an embedding, scores of the classes."""

import math
from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoder.model import EncoderOutput, require
from ..pruning.hard_concrete import Float32Module
from .pooling import POOLINGS, PooledNorm, pool_mean
from .task_list import ClassificationSettings, TaskSettings, VerificationSettings

NO_LABEL = -1  # in targets: the utterance has no label for this task


class LayerSum(nn.Module):
    """Sum of hidden states 0 to L, weighted by a softmax over learned numbers that start equal (SUPERB, 2105.01051)."""

    def __init__(self, layers: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))

    @property
    def weights(self) -> Tensor:
        """(layers,) float32, of sum 1."""
        return self.logits.float().softmax(0)

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """Tensors (batch, frames, width) to one of them."""
        weights = self.weights.to(hidden[0].dtype)
        total = weights[0] * hidden[0]
        for weight, state in zip(weights[1:], hidden[1:]):
            total = total + weight * state
        return total


class Head(nn.Module):
    """What heads of all kinds have.

    Args:
        settings: of the task.
        width, depth: of the encoder.
    """

    def __init__(self, settings: TaskSettings, width: int, depth: int):
        super().__init__()
        self.settings = settings
        self.layer_sum = LayerSum(depth + 1) if settings.layers == "sum" else None

    def listen(self, output: EncoderOutput) -> Tensor:
        """What the head takes from the encoder, (batch, frames, width)."""
        if self.layer_sum is None:
            return require(output.x)
        return self.layer_sum([require(state) for state in output.hidden])

    def embed(self, output: EncoderOutput, labelled: Optional[Tensor] = None) -> Tensor:
        """One vector an utterance, (batch, embedding); labelled (batch,) are those that count in batch statistics."""
        raise NotImplementedError

    def score(self, embedding: Tensor) -> Tensor:
        """(batch, embedding) to scores (batch, classes), whose softmax are the probabilities."""
        raise NotImplementedError

    def add_margin(self, scores: Tensor, target: Tensor) -> Tensor:
        """Scores (batch, classes) as the loss takes them, for targets (batch,); rows of NO_LABEL stay as they are."""
        return scores


class ClassificationHead(Head):
    """Mean over frames and a linear layer; with `hidden`, a layer on every frame before the mean (as SUPERB has)."""

    settings: ClassificationSettings

    def __init__(self, settings: ClassificationSettings, width: int, depth: int, classes: int):
        super().__init__(settings, width, depth)
        self.hidden = nn.Linear(width, settings.hidden) if settings.hidden else None
        self.norm = PooledNorm(settings.hidden or width) if settings.batch_norm else None
        self.output = nn.Linear(settings.hidden or width, classes)

    def embed(self, output: EncoderOutput, labelled: Optional[Tensor] = None) -> Tensor:
        """The mean over frames, (batch, hidden or width)."""
        x = self.listen(output)
        if self.hidden is not None:
            x = self.hidden(x)
            if self.settings.activation == "relu":
                x = F.relu(x)
        pooled = pool_mean(x, output.padding_mask)
        if self.norm is not None:
            pooled = self.norm(pooled, labelled)
        return pooled.to(self.output.weight.dtype)

    def score(self, embedding: Tensor) -> Tensor:
        """Scores (batch, classes) in float32."""
        return self.output(embedding).float()


class VerificationHead(Head):
    """Pooled statistics, a linear embedding, and scale * cosine between it and a vector for each class."""

    settings: VerificationSettings

    def __init__(self, settings: VerificationSettings, width: int, depth: int, classes: int):
        super().__init__(settings, width, depth)
        self.pooling = POOLINGS[settings.pooling](width)
        self.norm = PooledNorm(self.pooling.out_dim) if settings.batch_norm else None
        self.embedding = nn.Linear(self.pooling.out_dim, settings.embedding_dim)
        self.classes = nn.Parameter(torch.empty(classes, settings.embedding_dim))
        nn.init.xavier_normal_(self.classes)

    def embed(self, output: EncoderOutput, labelled: Optional[Tensor] = None) -> Tensor:
        """The embedding of the pooled statistics, (batch, embedding_dim)."""
        pooled = self.pooling(self.listen(output), output.padding_mask)
        if self.norm is not None:
            pooled = self.norm(pooled, labelled)
        return self.embedding(pooled.to(self.embedding.weight.dtype))

    def score(self, embedding: Tensor) -> Tensor:
        """Scale times the cosine with each class, (batch, classes) in float32."""
        cosine = F.linear(F.normalize(embedding.float(), dim=-1), F.normalize(self.classes.float(), dim=-1))
        return self.settings.scale * cosine

    def add_margin(self, scores: Tensor, target: Tensor) -> Tensor:
        """The target's score is scale * (cos - margin) with "am", scale * cos(angle + margin) with "aam".

        Past the angle pi - margin, where cos(angle + margin) would rise again, "aam" goes on falling in a line of the
        same slope as the cosine, as ArcFace's authors do (1801.07698, their code).
        """
        scale, margin = self.settings.scale, self.settings.margin
        cosine = scores / scale
        if self.settings.softmax == "am":
            moved = cosine - margin
        else:
            sine = (1 - cosine.pow(2)).clamp(min=1e-7).sqrt()
            turned = cosine * math.cos(margin) - sine * math.sin(margin)
            moved = torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
        is_target = F.one_hot(target.clamp(min=0), scores.size(1)).bool() & (target != NO_LABEL).unsqueeze(1)
        return torch.where(is_target, scale * moved, scores)


TASK_HEADS = {"classification": ClassificationHead, "verification": VerificationHead}


class TaskUncertainty(Float32Module):
    """A learned variance for each task, that says how much its loss counts (Kendall et al., 1705.07115).

    With s = log variance, a task's loss becomes exp(-s) * loss + s / 2: the form of the paper for classification.
    """

    def __init__(self, tasks: int):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(tasks))


def build_head(settings: TaskSettings, width: int, depth: int, classes: int) -> Head:
    """The head of a task on an encoder of `width` and `depth`."""
    return TASK_HEADS[settings.kind](settings, width, depth, classes)
