"""kmeans.npz comes back as it was; what anybody else made is centroids, or a sentence, and runs no code."""

import io
import pickle
import shlex
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import joblib
import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from fairseq_distill.errors import UserError
from fairseq_distill.units import storage
from fairseq_distill.units.kmeans import KMeans, Origin
from fairseq_distill.units.storage import read_kmeans, write_kmeans

CENTROIDS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
ORIGIN = Origin("/models/teacher ü.pt", "0123456789abcdef" * 4, 9, True, 16_000)
MADE = {"seed": 3, "fit": {"frames": 100, "inertia_per_frame": 1.5}}


class Harm:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write(path, **changes):
    """kmeans.npz with some arrays changed, None = left out."""
    write_kmeans(path, KMeans(CENTROIDS, ORIGIN, MADE))
    arrays = {**np.load(path), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "kmeans.npz"
    write_kmeans(path, KMeans(CENTROIDS, ORIGIN, MADE))
    found = read_kmeans(path)
    np.testing.assert_array_equal(found.centroids, CENTROIDS)
    assert found.centroids.dtype == np.float32 and (found.origin, found.made) == (ORIGIN, MADE)
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"centroids", "format", "made", *vars(ORIGIN)}
        assert arrays["centroids"].dtype == np.float32 and int(arrays["layer"]) == 9
    first = path.read_bytes()
    write_kmeans(path, found)
    assert path.read_bytes() == first, "the same k-means is the same file"
    write_kmeans(path, KMeans(CENTROIDS, ORIGIN))
    assert read_kmeans(path).made is None


@pytest.mark.parametrize("kind", [np.float32, np.float64, ">f4"])
def test_centroids_alone_are_read_and_name_no_teacher(tmp_path, kind):
    array = np.asfortranarray(CENTROIDS.astype(kind))
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", array)
    np.savez_compressed(tmp_path / "c.npz", centroids=array, note=np.array("more"))
    for name in ("a.npy", "b.npz", "c.npz"):
        found = read_kmeans(tmp_path / name)
        np.testing.assert_array_equal(found.centroids, CENTROIDS)
        assert found.centroids.dtype == np.float32 and found.origin is None and found.made is None


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_what_simple_kmeans_writes_is_not_opened_and_the_way_out_works(tmp_path, compress):
    frames = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    fitted = MiniBatchKMeans(5, random_state=0, n_init=1).fit(frames)
    path = tmp_path / "it's a km.bin"
    joblib.dump(fitted, path, compress=compress)
    with pytest.raises(UserError, match="is a pickle, as joblib and fairseq's simple_kmeans .*any code") as refused:
        read_kmeans(path)
    if compress:
        return
    line = str(refused.value).splitlines()[1].strip()
    program, *words = shlex.split(line)
    assert program == "python"
    subprocess.run([sys.executable, *words], check=True)
    np.testing.assert_array_equal(read_kmeans(tmp_path / "it's a km.npz").centroids, fitted.cluster_centers_)


def test_no_code_runs(tmp_path):
    harm = np.array([Harm(tmp_path / "harm")], dtype=object)
    np.save(tmp_path / "a.npy", harm, allow_pickle=True)
    np.savez(tmp_path / "b.npz", centroids=harm)
    np.savez(tmp_path / "c.npz", centroids=CENTROIDS, more=harm)
    joblib.dump(Harm(tmp_path / "harm"), tmp_path / "d.npz")
    (tmp_path / "e.npz").write_bytes(pickle.dumps(Harm(tmp_path / "harm"), protocol=0))
    for name, message in [
        ("a.npy", "holds pickled objects"),
        ("b.npz", "'centroids' holds pickled objects"),
        ("c.npz", "'more' holds pickled objects"),
        ("d.npz", "is a pickle"),
        ("e.npz", "is no .npz or .npy file"),
    ]:
        with pytest.raises(UserError, match=message):
            read_kmeans(tmp_path / name)
    assert not (tmp_path / "harm").exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert (tmp_path / "harm").exists(), "the files are harmless, and the test says nothing"


@pytest.mark.parametrize(
    "array, message",
    [
        (CENTROIDS[:0], "at least 2 units"),
        (CENTROIDS[:1], "at least 2 units"),
        (CENTROIDS[:, :0], "at least 2 units"),
        (CENTROIDS[0], r"shape \(4,\) .*\(units, width of the teacher\)"),
        (CENTROIDS.astype(np.int64), "type int64: they must be float32"),
        (CENTROIDS.astype(np.float16), "type float16: they must be float32"),
        (CENTROIDS.astype(np.complex64), "holds neither numbers nor text"),
        (np.array(["a", "b"]), "type <U1: they must be float32"),
        (np.zeros(3, dtype=[("a", "f4")]), "holds neither numbers nor text"),
        (np.where(np.eye(5, 4) > 0, np.nan, CENTROIDS), "4 centroids are not finite"),
        (CENTROIDS.astype(np.float64) * 1e39, "5 centroids are not finite"),
    ],
)
def test_what_are_no_centroids_is_a_sentence(tmp_path, array, message):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(UserError, match=f"a.npz.*{message}"):
        read_kmeans(tmp_path / "a.npz")
    with pytest.raises(UserError, match=message):
        read_kmeans(write(tmp_path / "b.npz", centroids=array))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": 2}, "version 2 .* this one reads 1"),
        ({"format": np.float32(1)}, "format is missing, or of another type"),
        ({"layer": None}, "layer is missing"),
        ({"layer": -1}, "layer or sample_rate is negative"),
        ({"layer": [1]}, "layer is missing, or of another type"),
        ({"sample_rate": 0}, "layer or sample_rate is negative"),
        ({"normalize": 1}, "normalize is missing, or of another type"),
        ({"teacher": "t" * 70_000}, "teacher is longer than 65536 characters"),
        ({"weights_sha256": "abc"}, "weights_sha256 is no SHA-256"),
        ({"made": "{"}, "no k-means of fairseq-distill units: Exp"),
        ({"made": "[" * 60_000}, "no k-means of fairseq-distill units"),
        ({"made": "[]"}, "made is no object"),
        ({"made": np.frombuffer(b"\xff" * 8, dtype="<U2")[0:1].reshape(())}, "no k-means of fairseq-distill units"),
        ({"centroids": None}, "at least 2 units|must be float32"),
    ],
)
def test_a_k_means_of_ours_that_is_not_whole_is_a_sentence(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_kmeans(write(tmp_path / "kmeans.npz", **changes))


def test_arrays_of_which_none_is_called_centroids(tmp_path):
    np.savez(tmp_path / "a.npz", CENTROIDS, CENTROIDS)
    with pytest.raises(UserError, match="a.npz holds 2 arrays and none called centroids"):
        read_kmeans(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(UserError, match="b.npz"):
        read_kmeans(tmp_path / "b.npz")


def test_every_damaged_file_is_a_sentence_or_the_same_k_means(tmp_path):
    whole, path = write(tmp_path / "whole.npz").read_bytes(), tmp_path / "damaged.npz"
    random = np.random.default_rng(0)
    refused = 0
    for number in range(400):
        data = bytearray(whole)
        if number % 4 == 0:
            data = data[: random.integers(len(data))]
        else:
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            found = read_kmeans(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and len(str(error)) < 1000
        else:
            np.testing.assert_array_equal(found.centroids, CENTROIDS)
    assert refused > 200


def build_npy(header, data=b""):
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        build_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }\n"),
        build_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }\n", bytes(16)),
        build_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * 900 + ",), }\n"),
        build_npy("{'descr': '<U0', 'fortran_order': False, 'shape': (4, 4), }\n"),
        build_npy("{'descr': '|V0', 'fortran_order': False, 'shape': (4, 4), }\n"),
        build_npy("{'descr': 'sin', 'fortran_order': False, 'shape': (4, 4), }\n"),
        build_npy("{'descr': [], 'fortran_order': False, 'shape': (4, 4), }\n"),
        build_npy("-" * 900 + "1\n"),
        build_npy("(" * 60_000),
        build_npy("{" * 900),
        build_npy("__import__('os').abort()\n"),
        b"\x93NUMPY\x03\x00\x10\x00\x00\x00" + bytes(16),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY",
    ],
)
def test_hostile_headers_are_a_sentence(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("centroids.npy", content)
    for name in ("a.npy", "b.npz"):
        with pytest.raises(UserError, match=f"{name} is damaged, or no file of numpy arrays"):
            read_kmeans(tmp_path / name)


def test_bombs_are_not_unpacked(tmp_path):
    """128 MB of zeros in 128 kB; a list of 20,000 members, which is long; one of 20."""
    zeros = build_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1024, 32768), }\n")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("centroids.npy", zeros + bytes(2**27))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        for number in range(20_000):
            archive.writestr(zipfile.ZipInfo(f"{number}.npy"), b"")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.npy", b"")
    tracemalloc.start()
    for name, message in [
        ("a.npz", "would unpack to 134,2"),
        ("b.npz", "its list of members has"),
        ("c.npz", "it holds 20 arrays"),
    ]:
        with pytest.raises(UserError, match=message):
            read_kmeans(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_and_members_are_a_sentence(tmp_path, kind):
    stream = io.BytesIO()
    np.save(stream, CENTROIDS)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
        archive.writestr("centroids.npy", stream.getvalue())
    with pytest.raises(UserError, match="compressed in a way"):
        read_kmeans(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("data.pkl", stream.getvalue())
    with pytest.raises(UserError, match="'data.pkl' in it is no array"):
        read_kmeans(tmp_path / "b.npz")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="none.npz cannot be read: No such file"):
        read_kmeans(tmp_path / "none.npz")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_kmeans(tmp_path)
    (tmp_path / "text.npz").write_text("0 1 2\n")
    with pytest.raises(UserError, match="text.npz is no .npz or .npy file of numpy: fairseq-distill units writes one"):
        storage.read_kmeans(tmp_path / "text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="empty.npz is no .npz"):
        read_kmeans(tmp_path / "empty.npz")
