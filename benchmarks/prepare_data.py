"""Writes the data sets of the benchmarks from their public sources, in the shape that `beir.py` reads.

    python benchmarks/prepare_data.py --out DIR
    python benchmarks/prepare_data.py --out DIR --sets squad --source squad=dev-v1.1.json
    python benchmarks/prepare_data.py --out DIR --sets --distractors FOLDER

Originals are downloaded once to DIR/originals and checked; `--source NAME=PATH` takes a local copy instead, a
file or an unpacked folder. Each set has a part that is held back from all measurements; it is left out here.

The distractors of `retrieval.py --crowded` are any folder of Markdown or reStructuredText pages. The
published figures took theirs from three repositories, which change daily: expect close, not equal ones.

    git clone --depth 1 https://github.com/MicrosoftDocs/cpp-docs FOLDER/cpp-docs                CC BY 4.0
    git clone --depth 1 https://github.com/MicrosoftDocs/PowerShell-Docs FOLDER/PowerShell-Docs  CC BY 4.0
    git clone --depth 1 https://github.com/python/peps FOLDER/peps                               public domain
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from xml.etree import ElementTree

from distractors import distractors
from originals import DataError, DataSet, convert_medquad, convert_scifact, convert_squad
from tqdm import tqdm


@dataclass(frozen=True)
class Source:
    """Where a set comes from.

    Attributes:
        url: The original.
        algorithm: Name in `hashlib` of the original's checksum.
        checksum: The original's published checksum, in hexadecimal digits.
        licence: Its terms.
        convert: Makes the set of the original.
        measured: SHA-256 of the files of the set that the published figures were measured on.
    """

    url: str
    algorithm: str
    checksum: str
    licence: str
    convert: Callable[[Path], DataSet]
    measured: str


SOURCES = {
    "squad": Source(
        url="https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v1.1.json",
        # Recorded in datasets/squad/dataset_infos.json of github.com/huggingface/datasets.
        algorithm="sha256",
        checksum="95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
        licence="CC BY-SA 4.0",
        convert=convert_squad,
        measured="a6b7a69c2d650f0e3806a22b782d6949bca219f50b4e466f5db14ee10a439b55",
    ),
    "scifact": Source(
        url="https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/scifact.zip",
        # Published as MD5 in the table of data sets in the README of github.com/beir-cellar/beir.
        algorithm="md5",
        checksum="5f7d1de60b170fc8027bb7898e2efca1",
        licence="claims CC BY 4.0, abstracts ODC-By 1.0",
        convert=convert_scifact,
        measured="ddb474d9257d0d712fb9d5fff6e860bcf010e1dff52c9deaa366d49ca6876dc3",
    ),
    "medquad": Source(
        url="https://codeload.github.com/abachaa/MedQuAD/zip/577bd37b96c02d1833b2c9eed2de9f96964e96cb",
        # The authors publish none. Two public projects that use this commit recorded the same SHA-256; GitHub
        # may pack the commit anew some day, and then an unpacked folder is the way in.
        algorithm="sha256",
        checksum="161d948f8ce8f82accca1f5769a512dff2a01af2b3004d48f2b3da2758a38a09",
        licence="CC BY 4.0",
        convert=convert_medquad,
        measured="f742be868cab6c3d42007b4b4b35cceb08fc0fac5750b821963ea5df7352edde",
    ),
}


def prepare(name: str, out: Path, local: Path | None = None) -> None:
    """Writes one set.

    Args:
        name: One of `SOURCES`.
        out: Gets the folder `name`, and `originals` for what is downloaded.
        local: A copy of the original, or a folder of its files; a folder has no checksum.

    Raises:
        DataError: If the original is missing, out of reach, or not the expected one.
    """
    source = SOURCES[name]
    original = _checked(name, source, local) if local else _downloaded(name, source, out / "originals")
    try:
        converted = source.convert(original)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{original}: not in the form of {source.url} ({error!r})") from error
    files = converted.files()
    _write(out / name, files)
    same = hashlib.sha256(b"".join(files.values())).hexdigest() == source.measured
    splits = [row["split"] for row in converted.queries]
    _say(
        f"{name}: {len(converted.corpus)} documents, {splits.count('train')} train and "
        f"{splits.count('dev')} dev questions in {out / name}; {source.licence}; "
        f"{'equal to' if same else 'NOT equal to'} the data of the published figures"
    )


def _downloaded(name: str, source: Source, folder: Path) -> Path:
    path = folder / f"{name}{Path(source.url).suffix or '.zip'}"
    if path.is_file() and _checksum(path, source.algorithm) == source.checksum:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _fetch(source.url, part)
        _checked(name, source, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=path.stem, unit="B", unit_scale=True) as progress:
                while block := answer.read(1 << 16):
                    file.write(block)
                    progress.update(len(block))
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{url}: cannot be downloaded ({error}); get it elsewhere and pass --source NAME=PATH"
        ) from error


def _checked(name: str, source: Source, path: Path) -> Path:
    if path.is_dir():
        _say(f"{name}: {path} is a folder and has no checksum: unverified")
        return path
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a copy of {source.url}, or a folder of its files")
    found = _checksum(path, source.algorithm)
    if found != source.checksum:
        raise DataError(
            f"{path}: {source.algorithm} {found}, expected {source.checksum} of {source.url}; "
            f"get it again, or unpack it and pass the folder, unverified: --source {name}=FOLDER"
        )
    return path


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {folder / f"{name}.gz": folder / f"{name}.gz.part" for name in files}
    try:
        for part, content in zip(parts.values(), files.values(), strict=True):
            part.write_bytes(gzip.compress(content, mtime=0))
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _local_copy(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if name not in SOURCES or not separator or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=PATH, NAME one of {', '.join(SOURCES)}")
    return name, Path(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets: --data of retrieval.py")
    parser.add_argument("--sets", nargs="*", choices=SOURCES, default=list(SOURCES), metavar="NAME")
    parser.add_argument(
        "--source", action="append", type=_local_copy, default=[], metavar="NAME=PATH", help="a local copy"
    )
    parser.add_argument(
        "--distractors", type=Path, metavar="FOLDER", help="pages to cut into the set techdocs"
    )
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        for name in options.sets:
            prepare(name, options.out, dict(options.source).get(name))
        if options.distractors:
            pieces = distractors(options.distractors)
            _write(options.out / "techdocs", {"corpus.jsonl": pieces.files()["corpus.jsonl"]})
            _say(f"techdocs: {len(pieces.corpus)} pieces in {options.out / 'techdocs'}")
    except DataError as error:
        sys.exit(f"prepare_data: {error}")
    _say(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
