"""Similarities made by hand, and CKA by its definition."""

import numpy as np

from fairseq_distill.layer_clusters.similarity import Similarity


def make_blocks(*sizes, inside=0.9, outside=0.2):
    """Similarities of layers in blocks: `inside` a block, `outside` it, falling a little with the distance."""
    labels = np.repeat(range(len(sizes)), sizes)
    values = np.where(labels[:, None] == labels, inside, outside)
    places = np.arange(len(labels))
    values = values - 0.01 * np.abs(places[:, None] - places)
    np.fill_diagonal(values, 1)
    return Similarity(values)


def define_cka(x, y):
    """tr(HKH HLH) / sqrt(tr(HKH HKH) tr(HLH HLH)), H taking off the mean, from Gram matrices, in double precision."""

    def centre(gram):
        return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()

    gram_x, gram_y = (centre(z @ z.T) for z in (x.double().numpy(), y.double().numpy()))
    return (gram_x * gram_y).sum() / np.sqrt((gram_x * gram_x).sum() * (gram_y * gram_y).sum())
