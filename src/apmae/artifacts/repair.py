"""Damaged files of a finished artifact: found by hash, made again beside it, moved in if they are the same bytes.

The manifest stays as it is, so whatever was made from the artifact still fits it. A kill in the middle leaves files
that are whole and files that are still damaged, which the next run finds again.
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
"""Megabytes from which on checking an artifact shows a bar; about half a second."""


def damage_of(path: Path, file: FileRecord) -> str | None:
    """What is wrong with a file, by its size and then by its hash; None if it is whole."""
    if (cut := _cut(path, file)) is not None:
        return cut
    return None if sha256_file(path) == file["sha256"] else "its content has changed"


def cut_files(out: Path, files: Records) -> list[str]:
    """The files of an artifact that are missing or of another size, by name; nothing is read."""
    root = manifest_path(out).parent
    return [name for name, file in files.items() if _cut(root / name, file)]


def damaged_files(out: Path, files: Records) -> dict[str, str]:
    """What is wrong with each damaged file of an artifact, by name. Reads every file: about 2 GB/s."""
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


def _cut(path: Path, file: FileRecord) -> str | None:
    if not path.is_file():
        return "it is missing"
    size, expected = path.stat().st_size, file.get("bytes")
    return None if size == expected else f"it has {size} of {expected} bytes"


def staging_of(out: Path) -> Path:
    """Where the files of an artifact are made again."""
    return out.with_name(f".{out.stem}.repair") if out.suffix == ".parquet" else out / ".repair"


class Repair:
    """The damaged files of one artifact.

    Args:
        out: the artifact.
        files: what its manifest says of all its files.
        damaged: what is wrong, by name.
        made_with: versions of the libraries that made it.
    """

    def __init__(
        self, out: Path, files: Records, damaged: Mapping[str, str], made_with: Mapping[str, str] | None
    ) -> None:
        self.out = out
        self.staging = staging_of(out)
        self._files, self._left, self._made_with = files, set(damaged), made_with or {}

    def put(self, made: Records) -> Records:
        """Move files that were made again in the staging folder to their places; those that were whole stay.

        Returns:
            What the manifest says of the files that are whole now.

        Raises:
            ArtifactError: if they are not the bytes that the manifest names, or cannot be moved.
        """
        wanted = {name: self._files[name] for name in made if name in self._left}
        for name, file in wanted.items():
            if {**made[name], "rows": None} != {**file, "rows": None}:
                raise ArtifactError(
                    f"{name} was made again, but not as the bytes that the manifest of {self.out} names "
                    f"({self._reason()}), so it does not belong to the other files; pass --overwrite to make all again"
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
            ArtifactError: if the stage does not make one of them any more.
        """
        if self._left:
            raise ArtifactError(
                f"expected {', '.join(sorted(self._left)[:3])} of {self.out} to be made again, this version does not; "
                "pass --overwrite to make all again"
            )

    def close(self) -> None:
        """Remove what is left of the staging folder."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _reason(self) -> str:
        now = versions()
        pairs = ((name, was, now.get(name)) for name, was in self._made_with.items())
        changed = [f"{name} was {was}, now {found}" for name, was, found in pairs if found != was]
        return "; ".join(changed[:3]) or "another machine, device or number of threads may be why"
