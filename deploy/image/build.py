"""Builds the image of yolodata, writes it to a file, and checks it. docs/containers.md

python deploy/image/build.py                                  docker, podman or buildah, from Debian
python deploy/image/build.py --base mmdebstrap                on a root that mmdebstrap makes first
python deploy/image/build.py --engine "buildah --storage-driver vfs" -- --isolation chroot

What stands after -- goes to the engine's `build`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import check
import tomllib

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = "deploy/image/Containerfile"
CONSTRAINTS = "deploy/image/constraints.txt"
ENGINES = ("docker", "podman", "buildah")
MADE_BASE = "localhost/yolodata-base"
# The packages that a Debian root must have; the Containerfile adds what is missing.
DEBIAN = ("mmdebstrap", "--variant=minbase", "--include=python3,ca-certificates", "bookworm")


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def source() -> str:
    """The address of the repository, without a password; "unknown" where there is none to reach."""
    remotes = output("git", "remote").split()
    address = output("git", "remote", "get-url", remotes[0]).strip() if remotes else ""
    return re.sub(r"//[^/@]*@", "//", address) if "://" in address else "unknown"


def context(folder: Path, root: Path = ROOT) -> None:
    """Copies what git tracks, as it stands, into a folder that any user may read."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], check=True, capture_output=True, text=True, cwd=root
    ).stdout
    for name in filter(None, names.split("\0")):
        source, target = root / name, folder / name
        if source.is_file():  # neither deleted nor a submodule
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)


def find_engine() -> str:
    """The first engine that answers."""
    for engine in ENGINES:
        if shutil.which(engine):
            asked = subprocess.run([engine, "info"], capture_output=True)
            if asked.returncode == 0:
                return engine
    sys.exit(f"build: none of {', '.join(ENGINES)} works here; install one, or name it: --engine")


def base_image(base: str, engine: list[str], folder: Path) -> str:
    """The name of the image to stand on; imports a root that is a file, makes one if asked."""
    if base == "mmdebstrap":
        root = folder / "base.tar"
        subprocess.run([*DEBIAN, str(root)], check=True)
    elif base.endswith(".tar"):
        root = Path(base)
    else:
        return base
    if Path(engine[0]).name == "buildah":
        container = subprocess.run(
            [*engine, "from", "scratch"], check=True, capture_output=True, text=True
        ).stdout.strip()
        try:
            subprocess.run([*engine, "add", "-q", container, str(root), "/"], check=True)
            subprocess.run([*engine, "commit", "-q", container, MADE_BASE], check=True)
        finally:
            subprocess.run([*engine, "rm", container], check=True, stdout=subprocess.DEVNULL)
    else:
        subprocess.run([*engine, "import", str(root), MADE_BASE], check=True)
    return MADE_BASE


def archive(engine: list[str], tag: str, file: Path) -> None:
    """Writes an image to a file, as an OCI archive."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    write = {
        "docker": ["save", "--output", str(file), tag],
        "podman": ["save", "-q", "--format=oci-archive", "--uncompressed", "-o", str(file), tag],
        "buildah": ["push", "-q", tag, f"oci-archive:{file}"],
    }
    subprocess.run([*engine, *write[Path(engine[0]).name]], check=True)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", metavar="IMAGE|FILE.tar|mmdebstrap",
                        help="what it stands on; default: the Containerfile's")  # fmt: skip
    parser.add_argument("--tag", help="name of the image; default: localhost/yolodata:VERSION")
    parser.add_argument("--extras", default="s3", help="of yolodata, separated by commas; ''")
    parser.add_argument("--engine", help="command of docker, podman or buildah")
    parser.add_argument("--archive", type=Path, default=ROOT / "build" / "yolodata.oci.tar",
                        metavar="FILE", help="where the image is written")  # fmt: skip
    parser.add_argument("--source", metavar="URL", help="label; default: the remote of this clone")
    parser.add_argument("--pip-settings", type=Path, metavar="FILE",
                        help="a pip.conf for the build alone, a secret of it")  # fmt: skip
    parser.add_argument("--pin", action="store_true",
                        help=f"resolve anew, and write {CONSTRAINTS}")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write sizes there")
    parser.add_argument("build", nargs="*", metavar="-- ARGUMENT", help="of the engine's build")
    return parser.parse_args(words)


def main() -> int:
    """Builds, writes, checks; returns 1 if the check finds anything."""
    given = arguments()
    engine = shlex.split(given.engine or find_engine())
    if Path(engine[0]).name not in ENGINES:
        sys.exit(f"build: --engine must begin with {', '.join(ENGINES)}, got {engine[0]!r}")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tag = given.tag or f"localhost/yolodata:{version}"
    revision = output("git", "rev-parse", "HEAD").strip()
    if output("git", "status", "--porcelain", "--untracked-files=no"):
        revision += "-changed"
    with tempfile.TemporaryDirectory(prefix="yolodata-image-") as name:
        folder = Path(name)
        (folder / "context").mkdir()
        context(folder / "context")
        if given.pin:
            (folder / "context" / CONSTRAINTS).write_text("")
        build_arguments = {"VERSION": version, "REVISION": revision, "EXTRAS": given.extras}
        build_arguments["SOURCE"] = given.source or source()
        if given.base:
            build_arguments["BASE"] = base_image(given.base, engine, folder)
        command = [*engine, "build", "-f", str(folder / "context" / CONTAINERFILE), "-t", tag]
        for key, value in build_arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        if Path(engine[0]).name == "buildah":
            command.append("--layers")  # it makes a single one by default
        if given.pin:
            command.append("--no-cache")  # a kept layer has the versions of its day
        if given.pip_settings:
            command += ["--secret", f"id=pip,src={given.pip_settings}"]
        started = time.monotonic()
        subprocess.run([*command, *given.build, str(folder / "context")], check=True)
    print(f"build: {tag}, {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    archive(engine, tag, given.archive)
    print(f"build: {given.archive}, {time.monotonic() - started:.0f} s", flush=True)
    if given.pin:
        packages = check.read(given.archive).packages
        pins = [f"{name}=={packages[name]}\n" for name in sorted(packages, key=str.lower)]
        (ROOT / CONSTRAINTS).write_text("".join(one for one in pins if "yolodata" not in one))
    words = [str(given.archive)]
    words += ["--pip-settings", str(given.pip_settings)] if given.pip_settings else []
    words += ["--json", str(given.json)] if given.json else []
    return check.main(words)


if __name__ == "__main__":
    sys.exit(main())
