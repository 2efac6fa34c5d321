"""Checks a built image: check.py IMAGE.oci.tar [--pip-settings FILE] [--most-gib N] [--json FILE].

It reads the archive that build.py writes, layer by layer, so it needs neither an engine nor root.
Secrets are looked for in every layer, because a file that a later layer removes is still there;
everything else in what the layers add up to.
"""

from __future__ import annotations

import argparse
import configparser
import json
import re
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

LABELS = ("title", "version", "revision", "source", "licenses")
COMPRESSION = {"tar": "r|", "tar+gzip": "r|gz", "gzip": "r|gz"}  # OCI's, OCI's, Docker's
NO_IMAGE = "vnd.docker.reference.type"  # annotates what Docker writes beside an image: provenance
NEEDED = ("opt/yolodata/bin/yolodata", "opt/yolodata/bin/python", "usr/bin/env", "tmp", "work")
SMALL = 1 << 20  # bytes: larger files are libraries and weights, no place for a password
BUILD_TOOL = re.compile(
    r"([\w-]+-linux-gnu-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|ld|as|gold)(-[\d.]+)?"
    r"|cc1|cc1plus|collect2|[gn]?make|cmake|ninja|nvcc|cicc|git"
)
BUILD_LEFTOVER = re.compile(
    r"Python\.h$|(^|/)\.git/|\.cache/pip/|^var/lib/apt/lists/.*(Packages|Release)|\.deb$|\.whl$"
)
NO_LEFTOVER = re.compile(r"usr/share/python-wheels/")  # Debian's python3-venv installs pip from it
SECRET_FILE = re.compile(
    r"(^|/)(\.netrc|\.pypirc|pip\.conf|\.git-credentials|\.env|id_(rsa|ed25519|ecdsa)"
    r"|\.aws/credentials|\.docker/config\.json|\.kube/config|ultralytics/settings\.json)$"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
SECRET_VALUE = re.compile(
    r"(?i)\b(?P<name>\w*(password|passwd|token|secret|api_?key|access_?key|credential)\w*)=[^\s\"']+"
    r"|\w://[^\s/@:]*:[^\s/@]+@"
)


@dataclass(frozen=True)
class Entry:
    """A file or folder of the image."""

    bytes: int
    mode: int
    uid: int
    is_file: bool


@dataclass
class Layer:
    """One layer: what made it, its size without compression, and its number of files."""

    made_by: str
    bytes: int = 0
    files: int = 0


@dataclass
class Image:
    """What an archive holds: its settings, its layers, and the files that they add up to."""

    settings: dict[str, Any]
    history: list[str]
    layers: list[Layer] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)  # of Python
    secrets: list[str] = field(default_factory=list)


def read(archive: Path, forbidden: Iterable[str] = ()) -> Image:
    """Reads an image from an OCI archive.

    Args:
        archive: file that `buildah push IMAGE oci-archive:FILE` writes, or `docker save`.
        forbidden: texts that no small file may hold.

    Raises:
        SystemExit: the file is no such archive, or has several images, or layers of an unknown
            kind.
    """
    with opened_archive(archive) as blobs:
        manifest = document(blobs, "index.json")
        while "manifests" in manifest:
            images = [one for one in manifest["manifests"]
                      if NO_IMAGE not in one.get("annotations", {})]  # fmt: skip
            if len(images) != 1:
                sys.exit(f"{archive} holds {len(images)} images; give one")
            manifest = document(blobs, blob(images[0]))
        whole = document(blobs, blob(manifest["config"]))
        history = whole.get("history", [])
        image = Image(whole.get("config", {}), [one.get("created_by", "") for one in history])
        made_by = [one.get("created_by", "") for one in history if not one.get("empty_layer")]
        for number, layer in enumerate(manifest["layers"]):
            kind = layer["mediaType"].rpartition(".")[2]
            if kind not in COMPRESSION:
                kinds = " or ".join(COMPRESSION)
                sys.exit(f"a layer of {archive} is {layer['mediaType']}; {kinds} can be read")
            found = Layer(made_by[number] if number < len(made_by) else "")
            image.layers.append(found)
            opened = blobs.extractfile(blob(layer))
            with tarfile.open(fileobj=opened, mode=COMPRESSION[kind]) as members:  # type: ignore[call-overload]
                lay(image, found, members, tuple(forbidden))
    return image


@contextmanager
def opened_archive(archive: Path) -> Iterator[tarfile.TarFile]:
    """An archive that has an index."""
    try:
        with tarfile.open(archive) as blobs:
            blobs.getmember("index.json")
            yield blobs
    except (OSError, KeyError, tarfile.TarError) as error:
        sys.exit(f"{archive} is no OCI archive of an image ({error}); build.py writes one, "
                 "and so does `docker save` of Docker 25 or newer")  # fmt: skip


def document(blobs: tarfile.TarFile, name: str) -> dict[str, Any]:
    """A JSON file of the archive."""
    opened = blobs.extractfile(name)
    assert opened is not None
    found: dict[str, Any] = json.load(opened)
    return found


def blob(descriptor: dict[str, Any]) -> str:
    """Where the archive keeps what a descriptor names."""
    return "blobs/" + descriptor["digest"].replace(":", "/")


def lay(image: Image, layer: Layer, members: tarfile.TarFile, forbidden: tuple[str, ...]) -> None:
    """Lays a layer on top of those before it."""
    for member in members:
        path = member.name.removeprefix("./").strip("/")
        folder, _, name = path.rpartition("/")
        if name.startswith(".wh."):  # removed here
            gone = folder if name == ".wh..wh..opq" else f"{folder}/{name[4:]}".strip("/")
            for other in [one for one in image.files if f"{one}/".startswith(f"{gone}/")]:
                if other != folder:
                    del image.files[other]
            continue
        mode = 0 if member.issym() else member.mode  # a link's says nothing
        image.files[path] = Entry(member.size, mode, member.uid, not member.isdir())
        layer.files += member.isfile()
        layer.bytes += member.size
        if member.isfile() and member.size <= SMALL:
            opened = members.extractfile(member)
            assert opened is not None
            look_into(image, path, opened, forbidden)


def look_into(image: Image, path: str, opened: IO[bytes], forbidden: tuple[str, ...]) -> None:
    """Notes secrets of a small file, and the name and version of a Python package."""
    content = opened.read()
    if SECRET_FILE.search(path) and content.strip():
        image.secrets.append(f"{path} is a file of secrets")
    if PRIVATE_KEY.search(content):
        image.secrets.append(f"{path} holds a private key")
    for text in forbidden:
        if text.encode() in content:
            image.secrets.append(f"{path} holds an address of pip's settings")
    if re.search(r"\.dist-info/direct_url\.json$", path) and SECRET_VALUE.search(content.decode()):
        image.secrets.append(f"{path} holds a password")
    if path.endswith(".dist-info/METADATA"):
        text = content.decode("utf-8", "replace")
        found = [re.search(rf"^{key}: (\S+)", text, re.MULTILINE) for key in ("Name", "Version")]
        if found[0] and found[1]:
            image.packages[found[0][1]] = found[1][1]


def hidden(text: str) -> str:
    """A text without its secrets; the names of variables stay."""
    return SECRET_VALUE.sub(lambda found: f"{found['name']}=…" if found["name"] else "…", text)


def problems(image: Image, most_gib: float) -> Iterator[str]:
    """What is wrong with an image, a sentence each."""
    settings = image.settings
    user = settings.get("User", "")
    if not re.fullmatch(r"[1-9]\d*(:\d+)?", user):
        yield f"the user must be a number other than 0, so that runAsNonRoot holds; it is {user!r}"
    labels = settings.get("Labels") or {}
    for label in LABELS:
        if not labels.get(f"org.opencontainers.image.{label}"):
            yield f"the label org.opencontainers.image.{label} is missing or empty"
    for key, wanted in (
        ("Entrypoint", ["yolodata"]),
        ("WorkingDir", "/work"),
        ("StopSignal", "SIGTERM"),
    ):
        if settings.get(key) != wanted:
            yield f"{key} must be {wanted!r}; it is {settings.get(key)!r}"
    for text in [*settings.get("Env", []), *image.history]:
        if SECRET_VALUE.search(text):
            yield f"a variable or a step of the build holds a secret: {hidden(text)}"
    yield from dict.fromkeys(image.secrets)
    for path in NEEDED:
        if path not in image.files:
            yield f"{path} is missing"
    for path, entry in image.files.items():
        if entry.is_file and BUILD_TOOL.fullmatch(path.rpartition("/")[2]) and entry.mode & 0o111:
            yield f"{path} is a build tool"
        if entry.is_file and BUILD_LEFTOVER.search(path) and not NO_LEFTOVER.search(path):
            yield f"{path} is left over from the build"
        ours = path.startswith("opt/yolodata/")
        if ours and (entry.uid or entry.mode & stat.S_IWOTH):
            yield f"{path} can be changed by others than root"
    total = sum(layer.bytes for layer in image.layers) / 2**30
    if total > most_gib:
        yield f"the image takes {total:.1f} GiB, more than {most_gib:g}; `--most-gib` allows more"


def addresses(settings: Path | None) -> list[str]:
    """The addresses that a pip.conf names: they belong to whoever builds, not into the image."""
    if settings is None:
        return []
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(settings, encoding="utf-8")
    words = [word for name in parser.sections() for _, value in parser.items(name)
             for word in value.split()]  # fmt: skip
    return [word for word in words if "://" in word]


def report(image: Image) -> dict[str, Any]:
    """Sizes of an image and its layers, in MiB, and its labels."""
    return {
        "mib": round(sum(layer.bytes for layer in image.layers) / 2**20),
        "files": sum(entry.is_file for entry in image.files.values()),
        "layers": [
            {
                "mib": round(layer.bytes / 2**20, 1),
                "files": layer.files,
                "made_by": hidden(" ".join(layer.made_by.split()))[:160],
            }
            for layer in image.layers
        ],
        "user": image.settings.get("User"),
        "labels": image.settings.get("Labels"),
    }


def main(words: list[str] | None = None) -> int:
    """Prints what the image is and what is wrong with it; returns 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path, metavar="IMAGE.oci.tar")
    parser.add_argument("--pip-settings", type=Path, metavar="FILE", help="pip.conf of the build")
    parser.add_argument("--most-gib", type=float, default=9.0, metavar="N", help="size allowed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the sizes there, too")
    given = parser.parse_args(words)
    image = read(given.archive, addresses(given.pip_settings))
    found = report(image)
    print("     MiB    files  made by")
    for layer in found["layers"]:
        print(f"{layer['mib']:8,.0f} {layer['files']:8,}  {layer['made_by'][:90]}")
    print(f"{found['mib']:8,} {found['files']:8,}  all")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    wrong = list(problems(image, given.most_gib))
    for problem in wrong:
        print(f"check: {problem}", file=sys.stderr)
    print(f"check: {len(wrong)} problems" if wrong else "check: nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
