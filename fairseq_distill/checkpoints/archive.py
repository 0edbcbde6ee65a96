"""Whether a checkpoint's file is what was written: checks of the archive before anything in it is used.

torch writes a zip archive whose entries are stored as they are, each with a checksum, and reads it without looking at
the checksums; and what it reads as a storage of a tensor it takes from the file byte by byte, compressed or not.
"""

import pickletools
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Iterator, Optional, Tuple, Union

import torch
from torch import Tensor

from ..errors import UserError

# A checkpoint with an optimizer and a dictionary of 50,000 labels has about 400,000. It bounds time and memory: the
# reader takes about a microsecond and up to a hundred bytes for each.
MAX_INSTRUCTIONS = 2_000_000
# what torch's format before 1.6 begins with: a magic number, a version, the machine, and then the object
_OLD_PICKLES = 4

Instruction = Tuple[pickletools.OpcodeInfo, Any, Optional[int]]


def is_archive(file: BinaryIO) -> bool:
    """Torch's own test of its format since 1.6; zipfile's looks at the end, where any file can hold an archive."""
    start = file.read(4)
    file.seek(0)
    return start == b"PK\x03\x04"


def check_archive(path: Path, compare_checksums: bool = True) -> None:
    """Check a zip archive of torch's: whole, uncompressed, every entry as its checksum says.

    Reads the file once, at the speed of the disk or about 1 GB a second. Files that `torch.save` wrote without
    checksums (`torch.serialization.set_crc32_options(False)`) have 0 for each; in those, damage is not seen.

    Raises:
        UserError: an entry is damaged, compressed, encrypted, there twice, or larger than the file.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise UserError(
                    f"{path} is refused: its entry {entry.filename[:80]!r} is compressed or encrypted, which "
                    "torch.save never does; load the original file, or save the unpacked weights again with torch.save"
                )
        if len({entry.filename for entry in entries}) < len(entries):
            raise UserError(f"{path} is refused: two entries of the archive have the same name; download it again")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise UserError(f"{path} is refused: its entries say that they are larger than the file; download it again")
        if compare_checksums and any(entry.CRC for entry in entries):
            damaged = archive.testzip()
            if damaged is not None:
                raise UserError(
                    f"{path} is damaged: its entry {damaged[:80]!r} does not have the checksum that it was saved with; "
                    "copy or download it again"
                )


def check_storages(path: Union[str, Path], tensors: Iterable[Tensor]) -> None:
    """Check that tensors lie in entries of their size: torch reads on into the next entry where one is short.

    Raises:
        UserError: there is no entry of a tensor's storage's size.
    """
    with open(path, "rb") as file:
        if not is_archive(file):
            return
        with zipfile.ZipFile(file) as archive:
            sizes = Counter(entry.file_size for entry in archive.infolist())
    plain = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided and not tensor.is_nested]
    storages = {storage.data_ptr(): storage.nbytes() for storage in plain}
    if Counter(storages.values()) - sizes:
        raise UserError(f"{path} is damaged: a tensor has not the size of its entry; copy or download it again")


def check_instructions(path: Path) -> None:
    """Refuse a file whose pickles would keep the reader busy for long: more than `MAX_INSTRUCTIONS` of them."""
    if sum(1 for _ in zip(read_instructions(path), range(MAX_INSTRUCTIONS + 1))) > MAX_INSTRUCTIONS:
        raise UserError(
            f"{path} is refused: it describes more than {MAX_INSTRUCTIONS:,} objects beside its weights; checkpoints "
            "of speech encoders have some ten thousand"
        )


def read_instructions(path: Path) -> Iterator[Instruction]:
    """Instructions of the file's pickles, one after the other; an exception where they are damaged."""
    with open(path, "rb") as file:
        if is_archive(file):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith("data.pkl"):
                        entry.CRC = None  # type: ignore[assignment]  # not compared: files without checksums have 0
                        with archive.open(entry) as pickled:
                            yield from pickletools.genops(pickled)
            return
        for _ in range(_OLD_PICKLES):
            yield from pickletools.genops(file)
