"""The unit of a frame: the nearest centroid, the lowest among equals, whatever else is computed beside it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from fairseq_distill.errors import UserError
from fairseq_distill.units import kmeans as module
from fairseq_distill.units.kmeans import KMeans, NearestUnit, Origin, check_origin

ORIGIN = Origin("teacher.pt", "0" * 64, 2, False, 16_000)


def draw(rows, width, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((rows, width))).astype(np.float32)


def find_exactly(frame, centroids):
    """By rational numbers; the lowest of those that are equally near."""
    distances = [
        sum((Fraction(float(x)) - Fraction(float(c))) ** 2 for x, c in zip(frame, centroid)) for centroid in centroids
    ]
    return distances.index(min(distances))


def test_units_are_those_of_scikit_learn_and_of_torch():
    frames = draw(2000, 48)
    fitted = MiniBatchKMeans(20, random_state=0, n_init=1).fit(frames)
    found = NearestUnit(fitted.cluster_centers_)(frames)
    assert found.dtype == np.int64 and len(set(found.tolist())) == 20
    np.testing.assert_array_equal(found, fitted.predict(frames))
    x, centroids = (torch.from_numpy(array).double() for array in (frames, fitted.cluster_centers_))
    np.testing.assert_array_equal(found, (x[:, None] - centroids).square().sum(-1).argmin(1).numpy())


def make_near_ties():
    """Frames far from 0 beside centroids around each: differences that the products' rounding is larger than."""
    frames = draw(40, 16, scale=1e5)
    step = draw(3, 16, seed=1, scale=0.1)
    centroids = np.concatenate([frames[:20] + step[0], frames[:20] - step[0], frames[:20] + step[1], frames[10:20]])
    return frames, centroids.astype(np.float32)


def test_near_ties_are_told_as_rational_numbers_tell_them():
    frames, centroids = make_near_ties()
    found = NearestUnit(centroids)(frames)
    assert found.tolist() == [find_exactly(frame, centroids) for frame in frames]
    x, c = frames.astype(np.float64), centroids.astype(np.float64)
    plain = (np.square(c).sum(1) - 2 * x @ c.T).argmin(1)
    assert (plain != found).any(), "products alone would do: the frames are no near ties"


def test_the_lowest_of_equal_units_is_taken():
    centroids = np.array([[9, 9], [1, 0], [0, 1], [1, 0], [-1, 0]], dtype=np.float32)
    frames = np.array([[0, 0], [0.5, 0.5], [2, -1], [-1, 0], [-3, 3]], dtype=np.float32)
    assert NearestUnit(centroids)(frames).tolist() == [1, 1, 1, 4, 2]
    assert NearestUnit(centroids[::-1])(frames).tolist() == [0, 1, 1, 0, 0]
    assert NearestUnit(np.ones((4, 3), dtype=np.float32))(draw(5, 3)).tolist() == [0] * 5


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_units_depend_neither_on_the_frames_beside_nor_on_threads(rows, monkeypatch):
    ties, centroids = make_near_ties()
    frames = np.concatenate([ties, centroids, draw(33, 16, seed=3, scale=1e5)])
    nearest = NearestUnit(centroids)
    whole = nearest(frames)
    order = np.random.default_rng(rows).permutation(len(frames))
    for threads in (1, 4):
        with threadpool_limits(threads):
            parts = [nearest(frames[order[start : start + rows]]) for start in range(0, len(frames), rows)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    monkeypatch.setattr(module, "_DISTANCES", rows * len(centroids))
    np.testing.assert_array_equal(NearestUnit(centroids)(frames), whole)
    np.testing.assert_array_equal(NearestUnit(centroids)(np.asfortranarray(frames)), whole)


def test_no_frames_have_no_units():
    assert NearestUnit(draw(4, 3))(draw(0, 3)).tolist() == []


def test_the_same_k_means_is_known_whatever_the_file_is_called():
    centroids = draw(4, 3)
    one = KMeans(centroids, ORIGIN, {"seed": 0})
    assert one.is_same(KMeans(centroids.copy(), Origin(**{**vars(ORIGIN), "teacher": "copy.pt"})))
    assert not one.is_same(KMeans(np.nextafter(centroids, np.float32(9)), ORIGIN))
    assert not one.is_same(KMeans(centroids[:3], ORIGIN)) and not one.is_same(KMeans(centroids))
    assert not one.is_same(KMeans(centroids, Origin(**{**vars(ORIGIN), "layer": 3})))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"weights_sha256": "f" * 64},
            "km.npz is of the teacher 'teacher.pt' .weights 000.*other.pt has other weights",
        ),
        ({"normalize": True}, "normalize=False, and other.pt has normalize=True"),
        ({"sample_rate": 8000}, "sample_rate=16000, and other.pt has sample_rate=8000"),
    ],
)
def test_another_teacher_is_refused_by_name(change, message):
    kmeans = KMeans(draw(4, 3), ORIGIN)
    check_origin(kmeans, "km.npz", ORIGIN)
    other = Origin(**{**vars(ORIGIN), "teacher": "other.pt", **change})
    with pytest.raises(UserError, match=message):
        check_origin(kmeans, "km.npz", other)
    assert check_origin(KMeans(kmeans.centroids), "km.npz", other) is None
