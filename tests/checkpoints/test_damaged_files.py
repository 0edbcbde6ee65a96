"""Damage that torch does not see: bytes that changed in a weight, and tensors that are no weights."""

import zipfile

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints import archive
from fairseq_distill.errors import UserError

from . import layouts

LAYER = "encoder.layers.1.fc1.weight"


@pytest.fixture(scope="module")
def hubert():
    return layouts.build_hubert()


def find_storage(path, minimum=1000):
    """(start, end) of the bytes of the first storage of at least `minimum` bytes in the file."""
    with zipfile.ZipFile(path) as file, open(path, "rb") as raw:
        for entry in file.infolist():
            if "/data/" in entry.filename and entry.file_size >= minimum:
                raw.seek(entry.header_offset + 26)
                name, extra = (int.from_bytes(raw.read(2), "little") for _ in range(2))
                start = entry.header_offset + 30 + name + extra
                return start, start + entry.file_size
    raise AssertionError("no such storage")


def test_a_changed_byte_of_a_weight_is_seen(hubert, tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert)
    whole = path.read_bytes()
    start, end = find_storage(path)
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(start, end, (20,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged: its entry '.*/data/.*' does not have the checksum"):
            load_encoder(path)
    path.write_bytes(whole)
    assert torch.equal(load_encoder(path).state_dict()[LAYER], hubert.state_dict()[LAYER])


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="torch before 2.6 writes checksums")
def test_a_file_without_checksums_loads(hubert, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = layouts.write_hubert(tmp_path / "hubert.pt", hubert)
    finally:
        torch.serialization.set_crc32_options(True)
    assert zipfile.ZipFile(path).testzip() is not None, "it has checksums"
    assert torch.equal(load_encoder(path).state_dict()[LAYER], hubert.state_dict()[LAYER])


def rewrite(path, change):
    """Write the archive again; `change` makes of an entry's name and bytes a list of (name, bytes, compression)."""
    with zipfile.ZipFile(path) as file:
        entries = [item for name in file.namelist() for item in change(name, file.read(name))]
    with zipfile.ZipFile(path, "w") as file:
        for name, content, compression in entries:
            file.writestr(name, content, compression)


@pytest.mark.parametrize("part", ["data.pkl", "/data/"])
def test_compressed_entries_are_refused(part, hubert, tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert)
    rewrite(path, lambda name, content: [(name, content, zipfile.ZIP_DEFLATED if part in name else 0)])
    with pytest.raises(UserError, match="is compressed or encrypted"):
        load_encoder(path)


def test_an_archive_with_an_entry_twice_is_refused(hubert, tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert)
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewrite(path, lambda name, content: [(name, content, 0)] * (2 if name.endswith("data.pkl") else 1))
    with pytest.raises(UserError, match="two entries"):
        load_encoder(path)


def test_a_storage_that_is_cut_short_is_seen(hubert, tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert)
    rewrite(path, lambda name, content: [(name, content[:-8] if name.endswith("/data/30") else content, 0)])
    with pytest.raises(UserError, match="a tensor has not the size of its entry"):
        load_encoder(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_very_many_objects_is_refused(zipped, hubert, tmp_path, monkeypatch):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert, _use_new_zipfile_serialization=zipped)
    load_encoder(path)
    needed = sum(1 for _ in archive.read_instructions(path))
    monkeypatch.setattr(archive, "MAX_INSTRUCTIONS", needed - 1)
    with pytest.raises(UserError, match=f"describes more than {needed - 1:,} objects"):
        load_encoder(path)


def write(path, hubert, weight):
    state = {**hubert.state_dict(), LAYER: weight}
    return layouts.write_fairseq(path, state, cfg=layouts.hydra_cfg("hubert", hubert.cfg, layouts.hubert_task(False)))


ODD = {
    "integers": (lambda w: w.long(), "is of the type torch.int64"),
    "booleans": (lambda w: w > 0, "is of the type torch.bool"),
    "complex": (lambda w: w.to(torch.complex64), "is of the type torch.complex64"),
    "conjugated": (lambda w: w.to(torch.complex64).conj(), "conjugated"),
    "sparse": (lambda w: w.to_sparse(), "layout torch.sparse_coo"),
    "nested": (lambda w: torch.nested.nested_tensor(list(w)), "nested|cannot be read"),
    "one value for all": (lambda w: w[:1, :1].clone().expand_as(w), "claims more elements than the file holds"),
    "overlapping rows": (
        lambda w: w.flatten()[: w.size(1) + w.size(0)].clone().unfold(0, w.size(1), 1)[: w.size(0)],
        "claims more elements",
    ),
    "not a number": (lambda w: w.clone().index_fill_(0, torch.tensor([3]), float("nan")), "values that are not finite"),
    "infinite": (lambda w: w.clone().mul_(float("inf")), "values that are not finite"),
    "infinite in half": (lambda w: w.half().mul_(1e5).mul_(1e5), "values that are not finite"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_weights_are_named(kind, hubert, tmp_path):
    make, pattern = ODD[kind]
    path = write(tmp_path / "odd.pt", hubert, make(hubert.state_dict()[LAYER].detach()))
    with pytest.raises(UserError, match=pattern) as refusal:
        load_encoder(path)
    assert str(path) in str(refusal.value) and (LAYER in str(refusal.value) or "cannot be read" in str(refusal.value))


def test_weights_of_any_precision_and_stride_load(hubert, tmp_path):
    weight = hubert.state_dict()[LAYER].detach()
    for other in (weight.double(), weight.bfloat16(), weight.t().contiguous().t()):
        loaded = load_encoder(write(tmp_path / "other.pt", hubert, other)).state_dict()[LAYER]
        assert torch.equal(loaded, other.float())
