"""Real folders, zips and tars, made in tmp_path."""

import io
import tarfile
import zipfile
from collections import Counter

import pytest

from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources

FILES = {
    "app/B.java": "class B {}\n",
    "app/A.java": 'class A { String s = "日本"; }\r\n',
    "lib/deep/er/C.java": "class C {}",
    "readme.md": "# nothing\n",
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "src"
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    return root


@pytest.fixture(scope="session")
def read():
    """Reads all files of sources: ``(files, rejected)``."""

    def run(*paths, suffixes=(".java",)):
        rejected = Counter()
        handles = list_sources([parse_source(path) for path in paths], suffixes=suffixes)
        return [file for handle in handles if (file := handle.read(rejected)) is not None], rejected

    return run


@pytest.fixture(scope="session")
def make_archive():
    """Packs the content of ``folder`` into the kind of archive that the name says."""

    def run(folder, path):
        members = [(name, (folder / name).read_bytes()) for name in FILES]
        if path.suffix in (".zip", ".jar"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in members:
                    archive.writestr(name, data)
            return
        packing = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz", ".tar": ""}[path.suffix]
        with tarfile.open(path, f"w:{packing}") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    return run
