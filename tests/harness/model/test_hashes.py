"""Large files are read for their hash once; any change of a file is seen."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from assay.harness.model import hashes
from assay.harness.model.hashes import LARGE, hash_file


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content was read, in order; files settle at once."""
    found: list[Path] = []
    read = hashes.read_hash
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SETTLED", 0)

    def counted(path: Path) -> str:
        found.append(path)
        return read(path)

    monkeypatch.setattr(hashes, "read_hash", counted)
    return found


def weights(folder: Path, size: int = LARGE) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(bytes(size))
    return path


def test_an_unchanged_large_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path)
    expected = hashlib.sha256(bytes(LARGE)).hexdigest()
    assert [hash_file(path), hash_file(path)] == [expected, expected]
    assert reads == [path]


def test_a_small_file_is_read_every_time(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path, LARGE - 1)
    assert hash_file(path) == hash_file(path)
    assert reads == [path, path]


def test_a_changed_byte_is_seen_with_the_same_size_and_time(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path)
    before, times = hash_file(path), path.stat()
    with path.open("r+b") as file:
        file.seek(LARGE // 2)
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hash_file(path) != before
    assert reads == [path, path]


def test_a_file_put_in_its_place_is_seen(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path)
    before, times = hash_file(path), path.stat()
    other = tmp_path / "other"
    other.write_bytes(b"x" * LARGE)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    assert hash_file(path) != before


def test_a_file_that_just_changed_is_not_remembered(tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "SETTLED", 3600 * 10**9)
    path = weights(tmp_path)
    hash_file(path)
    hash_file(path)
    assert reads == [path, path]


@pytest.mark.parametrize("damage", ["mode", "folder", "text", "stamp", "hash"])
def test_a_memory_that_cannot_be_trusted_is_not_used(tmp_path: Path, reads: list[Path], damage: str) -> None:
    path = weights(tmp_path)
    expected = hash_file(path)
    memory = next((tmp_path / "cache" / "hashes").iterdir())
    content = memory.read_text()
    match damage:
        case "mode":
            memory.chmod(0o666)
        case "folder":
            memory.parent.chmod(0o777)
        case "text":
            memory.write_text(content[:-9])
        case "stamp":
            memory.write_text(content.replace('"stamp": [', '"stamp": [1'))
        case "hash":
            memory.write_text(content.replace(expected, "not a hash"))
    assert hash_file(path) == expected
    assert reads == [path, path]


def test_without_a_cache_every_file_is_read(tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "file"))
    path = weights(tmp_path)
    assert hash_file(path) == hash_file(path) == hashlib.sha256(bytes(LARGE)).hexdigest()
    assert reads == [path, path]
