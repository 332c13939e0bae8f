"""Damaged files of a finished artifact: found by hash, made again in a staging folder, moved in if the bytes agree.

The manifest stays as it is, so whatever was made from the artifact still fits it. A kill in the middle leaves some
files whole and some still damaged; the next run finds these again.
"""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from apmae.artifacts.files import sha256_file, write_error
from apmae.artifacts.manifest import FileRecord, Records, manifest_path, versions
from apmae.errors import ArtifactError
from apmae.progress import progress

_MEGABYTE = 1_000_000
_WATCHED = 1000
"""Checking this many megabytes or more shows a progress bar; that takes about half a second."""


def damage_of(path: Path, file: FileRecord) -> str | None:
    """What is wrong with a file, judged by its size and then by its hash; None if it is whole."""
    if (damage := _size_damage(path, file)) is not None:
        return damage
    return None if sha256_file(path) == file["sha256"] else "its content has changed"


def files_of_wrong_size(out: Path, files: Records) -> list[str]:
    """Names of an artifact's files that are missing or have another size; no file is read."""
    root = manifest_path(out).parent
    return [name for name, file in files.items() if _size_damage(root / name, file)]


def damaged_files(out: Path, files: Records) -> dict[str, str]:
    """What is wrong with each damaged file of an artifact, by name. Reads every file, at about 2 GB/s."""
    root, found = manifest_path(out).parent, {}
    sizes = {name: -(-file["bytes"] // _MEGABYTE) for name, file in files.items()}
    total = sum(sizes.values())
    with progress(f"check {out.name}, MB", total) if total >= _WATCHED else nullcontext() as advance:
        for name, file in files.items():
            why = damage_of(root / name, file)
            if why is not None:
                found[name] = why
            if advance:
                advance(sizes[name])
    return found


def _size_damage(path: Path, file: FileRecord) -> str | None:
    if not path.is_file():
        return "it is missing"
    size, expected = path.stat().st_size, file.get("bytes")
    return None if size == expected else f"it has {size} of {expected} bytes"


def staging_of(out: Path) -> Path:
    """The folder in which damaged files of an artifact are made again."""
    return out.with_name(f".{out.stem}.repair") if out.suffix == ".parquet" else out / ".repair"


class Repair:
    """The damaged files of one artifact.

    Args:
        out: the artifact.
        files: the records of all its files, from its manifest.
        damaged: what is wrong with each damaged file, by name.
        made_with: versions of the libraries that made it.
    """

    def __init__(
        self, out: Path, files: Records, damaged: Mapping[str, str], made_with: Mapping[str, str] | None
    ) -> None:
        self.out = out
        self.staging = staging_of(out)
        self._files, self._left, self._made_with = files, set(damaged), made_with or {}

    def put(self, made: Records) -> Records:
        """Move damaged files that were made again from the staging folder to their places; whole files stay.

        Returns:
            The manifest's records of the files that are whole again.

        Raises:
            ArtifactError: if their bytes are not those that the manifest names, or they cannot be moved.
        """
        wanted = {name: self._files[name] for name in made if name in self._left}
        for name, file in wanted.items():
            if {**made[name], "rows": None} != {**file, "rows": None}:
                raise ArtifactError(
                    f"{name} was made again, but its bytes are not those that the manifest of {self.out} names "
                    f"({self._reason()}): it does not fit the other files; pass --overwrite to make all of them again"
                )
        for name in made:
            source, target = self.staging / name, manifest_path(self.out).parent / name
            try:
                if name in wanted:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source.replace(target)
                else:
                    source.unlink()
            except OSError as error:
                raise write_error(target, error) from error
        self._left -= wanted.keys()
        return wanted

    def expect_nothing_left(self) -> None:
        """Check that every damaged file was made again.

        Raises:
            ArtifactError: if the stage no longer makes one of them.
        """
        if self._left:
            raise ArtifactError(
                f"expected {', '.join(sorted(self._left)[:3])} of {self.out} to be made again, this version makes no "
                "such file; pass --overwrite to make the whole artifact again"
            )

    def close(self) -> None:
        """Remove what is left of the staging folder."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _reason(self) -> str:
        now = versions()
        pairs = ((name, was, now.get(name)) for name, was in self._made_with.items())
        changed = [f"{name} was {was}, now {found}" for name, was, found in pairs if found != was]
        return "; ".join(changed[:3]) or "the machine, the device or the number of threads may differ"
