"""The image: its recipe says what README and pyproject say, and its check finds what is planted."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

import yolodata
from yolodata.dali.compilers import DEFAULT_ARCHS
from yolodata.launch import kubernetes

tomllib = pytest.importorskip("tomllib", reason="the image's scripts want Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "image"
CONTAINERFILE = (FOLDER / "Containerfile").read_text()
DEFINITION = (FOLDER / "yolodata.def").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    """deploy/image is a folder of scripts, not a package."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


# The recipe.


def stages(text: str) -> list[list[tuple[str, str]]]:
    """Instructions and their arguments, a list a stage."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, " ".join(rest.split())))
    return found


def arguments(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for one, rest in stage if one == name]


def sections(text: str) -> dict[str, list[str]]:
    """Lines of an Apptainer definition by section, without comments; "" is the header."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("%"):
            name = line
            found[name] = []
        elif not line.startswith("#"):
            found[name].append(line)
    return found


def differences(containerfile: str, definition: str) -> list[str]:
    """In what a SIF would be another image than the container."""
    import build

    parts, last = sections(definition), stages(containerfile)[-1]
    archive = build.arguments([]).archive.relative_to(ROOT)
    entry = json.loads(arguments(last, "ENTRYPOINT")[-1])
    found = []
    if parts[""] != ["Bootstrap: oci-archive", f"From: {archive}"]:
        found.append("its root is not the file that build.py writes")
    if set(parts) - {"", "%environment", "%runscript", "%test", "%help"}:
        found.append("a section may change its root")
    if parts.get("%environment") != ["export PYTHONPATH= PYTHONHOME="]:
        found.append("it has other variables, or imports the host's packages")
    if parts.get("%runscript") != [f'exec {" ".join(entry)} "$@"']:
        found.append("it runs another command")
    return found


def test_a_sif_is_the_same_image() -> None:
    assert differences(CONTAINERFILE, DEFINITION) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("From: build/yolodata.oci.tar", "From: build/other.oci.tar"),
        ("Bootstrap: oci-archive", "Bootstrap: docker"),
        ('exec yolodata "$@"', "exec yolodata $@"),
        ('exec yolodata "$@"', 'exec python -m yolodata "$@"'),
        ("%test", "%post\n    pip install more\n%test"),
        ("export PYTHONPATH=", "export HOME=/elsewhere"),
        ("export PYTHONPATH= PYTHONHOME=", "unset PYTHONPATH PYTHONHOME"),
    ],
)
def test_another_image_is_noticed(old: str, new: str) -> None:
    assert old in DEFINITION
    assert differences(CONTAINERFILE, DEFINITION.replace(old, new)) != []


BASES = ["${BASE}", "tools", "${BASE}"]


def faults(containerfile: str) -> list[str]:
    """What the recipe may not do, as far as its text shows it."""
    found = []
    tools, wheel, run = stages(containerfile)
    if [arguments(one, "FROM")[0].split()[0] for one in (tools, wheel, run)] != BASES:
        found.append("a stage has another base")
    user = arguments(run, "USER")[-1:] or ["root"]
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user[0]):
        found.append("the user is no number, or root")
    kinds = [name for name, _ in run]
    if "USER" in kinds and "RUN" not in kinds[kinds.index("USER") :]:
        found.append("nothing is checked as the image's user")
    for step in arguments(run, "RUN"):
        if re.search(r"g\+\+|gcc|build-essential|-dev\b|python3-pip|\bgit\b|\bmake\b", step):
            found.append("the run-time stage installs build tools")
        if "apt-get install" in step and "/var/lib/apt/lists" not in step:
            found.append("apt's lists stay")
        if re.search(r"\bpip\b.* install", step) and "--no-cache-dir" not in step:
            found.append("pip's cache stays")
    for step in [*arguments(wheel, "RUN"), *arguments(run, "RUN")]:
        asks = re.search(r"/pip .*(install|wheel) ", step) and "--no-index" not in step
        if asks and ("type=secret,id=pip" not in step or "=/run/secrets/pip" not in step):
            found.append("pip's settings are no secret of the build")
    copied: set[str] = set()
    for name, rest in run:
        stage = re.match(r"--from=(\w+) ", rest)
        if name == "COPY" and stage:
            copied.add(stage[1])
        if name == "RUN" and not set(re.findall(r"from=(\w+)", rest)) <= copied:
            found.append("a kept layer may be of another stage's older files")
    for stage in (tools, wheel, run):
        for name in ("ARG", "ENV"):
            if re.search(
                r"(?i)token|password|secret|index|proxy", " ".join(arguments(stage, name))
            ):
                found.append(f"{name} holds what only the build may know")
        if any(
            source in (".", "./") for one in arguments(stage, "COPY") for source in one.split()[:-1]
        ):
            found.append("the whole context is copied")
    if "://" in containerfile:
        found.append("a host is named")
    return found


def test_the_recipe_leaves_tools_and_secrets_behind() -> None:
    assert faults(CONTAINERFILE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("USER 10001:10001", "USER yolodata"),
        ("USER 10001:10001", "USER 0:0"),
        ("USER 10001:10001\n", ""),
        ("libgl1 libglib2.0-0", "libgl1 libglib2.0-0 g++"),
        ("libgl1 libglib2.0-0", "libgl1 libglib2.0-0 python3-dev"),
        (" && rm -rf /var/lib/apt/lists/*", ""),
        ("/pip --no-cache-dir --python", "/pip --python"),
        ("RUN --mount=type=secret,id=pip \\\n    PIP_CONF", "RUN PIP_CONF"),
        ("PIP_CONFIG_FILE=/run/secrets/pip /tools/bin/pip --no", "/tools/bin/pip --no"),
        ("ARG REVISION", "ARG PIP_INDEX_URL"),
        ("COPY csrc csrc", "COPY . ."),
        ("COPY --from=wheel /wheels/SHA256SUMS /usr/share/yolodata/\n", ""),
        ("COPY --from=tools", "COPY --from=wheel"),
        ("FROM ${BASE}\n", "FROM debian:bookworm\n"),
    ],
)  # fmt: skip
def test_a_fault_of_the_recipe_is_noticed(old: str, new: str) -> None:
    assert old in CONTAINERFILE
    assert faults(CONTAINERFILE.replace(old, new)) != []


def test_the_recipe_is_of_this_project() -> None:
    import check

    _, wheel, run = stages(CONTAINERFILE)
    assert json.loads(arguments(run, "ENTRYPOINT")[-1])[0] in PROJECT["scripts"]
    user = kubernetes.OPTIONS.fields()["user"].default
    assert arguments(run, "USER")[-1] == f"{user}:{user}"
    archs = re.findall(r'ARG YOLODATA_CUDA_ARCHS="(.*)"', CONTAINERFILE)
    assert archs == [DEFAULT_ARCHS]
    labels = set(re.findall(r"image\.(\w+)=", " ".join(arguments(run, "LABEL"))))
    assert labels == set(check.LABELS)
    readme = (ROOT / "README.md").read_text()
    wanted = re.findall(r"sudo apt install ([\w+ .-]+)`", readme)[0].split()
    installed = " ".join(arguments(wheel, "RUN"))
    assert all(re.sub(r"-\d+$", "", package) in installed for package in wanted)


def test_all_that_is_copied_is_tracked_and_let_through() -> None:
    import build

    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    defaults = dict(re.findall(r"ARG (\w+)=(\S+)", CONTAINERFILE))
    tracked = build.output("git", "ls-files").splitlines()
    sources = [
        re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], source)
        for stage in stages(CONTAINERFILE)
        for copied in arguments(stage, "COPY")
        for source in copied.split()[:-1]
    ]
    used = re.findall(r"/source/(\S+\.py)", CONTAINERFILE)
    for source in [*sources, *used, "examples/example_data.py", "tests/reference.py"]:
        if source.startswith(("/", "--from=")):  # of another stage
            continue
        assert any(f"{name}/".startswith(f"{source}/") for name in tracked), source
        through = {str(one) for one in (Path(source), *Path(source).parents)} - {"."}
        hidden = {line.removesuffix("/*") for line in ignored if line.endswith("/*")}
        first = Path(source).parts[0]
        assert f"!{first}" in ignored, source
        assert first not in hidden or any(f"!{one}" in ignored for one in through - {first}), source
    assert ignored[[line.startswith("#") for line in ignored].index(False)] == "*"


def test_requirements_are_those_of_the_project_and_pinned() -> None:
    def run(*extras: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / "requirements.py"), str(ROOT / "pyproject.toml")]
        return subprocess.run([*command, *extras], capture_output=True, text=True)

    assert run().stdout.splitlines() == PROJECT["dependencies"]
    extras = PROJECT["optional-dependencies"]
    wanted = run("s3").stdout.splitlines()
    assert wanted == [*PROJECT["dependencies"], *extras["s3"]]
    assert "got 's33'" in run("s33").stderr

    pins = dict(line.split("==") for line in (FOLDER / "constraints.txt").read_text().splitlines())
    pins = {re.sub("[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name]), text


def test_the_context_is_what_git_tracks(tmp_path: Path) -> None:
    import build

    root, target = tmp_path / "root", tmp_path / "context"
    (root / "a").mkdir(parents=True)
    target.mkdir(mode=0o700)
    for name in ("a/kept.py", "gone.py", "password.txt"):
        (root / name).write_text(name)
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "a/kept.py", "gone.py"], check=True)
    (root / "gone.py").unlink()
    (root / "a" / "kept.py").write_text("changed")
    build.context(target, root)
    assert [one for one in target.rglob("*") if one.is_file()] == [target / "a" / "kept.py"]
    assert (target / "a" / "kept.py").read_text() == "changed"
    assert target.stat().st_mode & 0o777 == 0o755  # the image's user reads it


# The check of an installation, from the inside.


def test_an_installation_is_checked() -> None:
    import check_install

    check_install.dali_decodes()
    check_install.renders_as_the_reference()


def test_a_wrong_picture_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import check_install

    right = yolodata.render

    def off_by_one(*given: Any, **named: Any) -> Any:
        picture = right(*given, **named).copy()
        picture[0, 5, 5] ^= 1
        return picture

    monkeypatch.setattr(yolodata, "render", off_by_one)
    with pytest.raises(SystemExit, match="differs from the reference"):
        check_install.renders_as_the_reference()
    monkeypatch.setattr(np, "array_equal", lambda a, b: False)
    with pytest.raises(SystemExit, match="DALI decodes"):
        check_install.dali_decodes()


# The check of an image, from the outside, on small archives.

SETTINGS: dict[str, Any] = {
    "User": "10001:10001",
    "Entrypoint": ["yolodata"],
    "WorkingDir": "/work",
    "StopSignal": "SIGTERM",
    "Env": ["PATH=/opt/yolodata/bin:/usr/bin", "HOME=/tmp"],
    "Labels": {
        f"org.opencontainers.image.{name}": "something"
        for name in ("title", "version", "revision", "source", "licenses")
    },
}
SITE = "opt/yolodata/lib/python3.11/site-packages"
FILES: dict[str, Any] = {
    "opt/yolodata/bin/yolodata": (0o755, b"#!/opt/yolodata/bin/python"),
    "opt/yolodata/bin/python": (0o777, "/usr/bin/python3"),  # a link
    "usr/bin/env": (0o755, b""),
    "tmp": (0o644, b""),
    "work": (0o644, b""),
    "usr/bin/python3.11": (0o755, b"\x7fELF"),
    "usr/share/doc/gcc-12-base": (0o644, b"words"),  # a name alone is no compiler
    f"{SITE}/yolodata-0.2.0.dist-info/METADATA": (0o644, b"Name: yolodata\nVersion: 0.2.0\n\n"),
    f"{SITE}/certifi/cacert.pem": (0o644, b"-----BEGIN CERTIFICATE-----\nMIIF"),
}
KEY = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 64 + b"\n"


def packed(layer: dict[str, Any], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, given in layer.items():
            permissions, content, *owner = given
            member = tarfile.TarInfo(name)
            member.mode, member.uid = permissions, owner[0] if owner else 0
            if isinstance(content, str):
                member.type, member.linkname, content = tarfile.SYMTYPE, content, b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_archive(
    path: Path,
    *layers: dict[str, Any],
    settings: dict[str, Any] | None = None,
    history: str = "RUN true",
    kind: str = "application/vnd.oci.image.layer.v1.tar+gzip",
    beside: dict[str, Any] | None = None,
) -> Path:
    """An OCI archive of these layers: path -> (mode, content, uid); text is where a link leads.

    `kind` is the media type of layers, `beside` what the index says of a second manifest.
    """
    blobs: dict[str, bytes] = {}

    def put(content: bytes, kind: str) -> dict[str, Any]:
        digest = sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content), "mediaType": kind}

    mode = "w:gz" if kind.endswith("gzip") else "w"
    manifest: dict[str, Any] = {"layers": [put(packed(layer, mode), kind) for layer in layers]}
    steps: list[Any] = [{"created_by": history} for _ in layers]
    steps.insert(0, {"created_by": "ENV A=b", "empty_layer": True})
    whole = {"config": SETTINGS | (settings or {}), "history": steps}
    manifest["config"] = put(json.dumps(whole).encode(), "application/vnd.oci.image.config.v1+json")
    index = {"manifests": [put(json.dumps(manifest).encode(), "")]}
    if beside is not None:  # an index of its own, as Docker has it
        index["manifests"].append(beside | put(b"{}", ""))
        index = {"manifests": [put(json.dumps(index).encode(), "")]}
    blobs["index.json"] = json.dumps(index).encode()
    path.write_bytes(packed({name: (0o644, content) for name, content in blobs.items()}, "w"))
    return path


PROVENANCE = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}


@pytest.mark.parametrize(
    ("kind", "beside"),
    [
        ("application/vnd.oci.image.layer.v1.tar+gzip", None),  # buildah
        ("application/vnd.oci.image.layer.v1.tar", None),  # podman, Docker
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", PROVENANCE),  # Docker, containerd
    ],
)
def test_a_right_image_passes(
    tmp_path: Path, capsys: Any, kind: str, beside: dict[str, Any] | None
) -> None:
    import check

    removed = {"usr/bin/gcc": (0o755, b""), "usr/lib/tools/ld": (0o755, b"")}
    gone = {"usr/bin/.wh.gcc": (0o644, b""), "usr/lib/.wh.tools": (0o644, b"")}
    archive = write_archive(tmp_path / "i.tar", removed, FILES, gone, kind=kind, beside=beside)
    assert check.main([str(archive), "--json", str(tmp_path / "report.json")]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [layer["files"] for layer in report["layers"]] == [2, 8, 0]
    assert report["files"] == 9
    assert check.read(archive).packages == {"yolodata": "0.2.0"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {"User": "0"}}, "the user must be a number other than 0"),
        ({"settings": {"User": "yolodata"}}, "the user must be a number other than 0"),
        ({"settings": {"User": ""}}, "the user must be a number other than 0"),
        ({"settings": {"Labels": {"org.opencontainers.image.title": "x"}}}, "revision is missing"),
        ({"settings": {"Entrypoint": ["sh"]}}, "Entrypoint must be"),
        ({"settings": {"StopSignal": "SIGKILL"}}, "StopSignal must be"),
        ({"settings": {"Env": ["S3_SECRET_KEY=hunter22"]}}, "holds a secret: S3_SECRET_KEY"),
        ({"history": "RUN pip install -i https://me:hunter22@index/simple x"}, "holds a secret"),
        ({"usr/bin/x86_64-linux-gnu-g++-12": (0o755, b"")}, "g++-12 is a build tool"),
        ({"usr/bin/make": (0o755, b"")}, "make is a build tool"),
        ({f"{SITE}/nvidia/cu13/bin/nvcc": (0o755, b"")}, "nvcc is a build tool"),
        ({"usr/include/python3.11/Python.h": (0o644, b"")}, "left over from the build"),
        ({"root/.cache/pip/http/a": (0o644, b"")}, "left over from the build"),
        ({"source/.git/HEAD": (0o644, b"")}, "left over from the build"),
        ({"wheels/a.whl": (0o644, b"")}, "left over from the build"),
        ({f"{SITE}/yolodata/a.py": (0o644, b"", 10001)}, "can be changed by others"),
        ({f"{SITE}/yolodata/a.py": (0o666, b"")}, "can be changed by others"),
        ({".wh.opt": (0o644, b"")}, "opt/yolodata/bin/yolodata is missing"),
        ({"root/.netrc": (0o600, b"machine a")}, ".netrc is a file of secrets"),
        ({"etc/ssl/some.key": (0o600, KEY)}, "holds a private key"),
        ({"etc/pip.text": (0o644, b"see https://index.example/simple")}, "an address of pip's"),
        ({f"{SITE}/a.dist-info/direct_url.json": (0o644, b'"http://a:b@c/"')}, "holds a password"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_image_is_said(
    tmp_path: Path, capsys: Any, change: dict[str, Any], said: str
) -> None:
    import check

    pip = tmp_path / "pip.conf"
    pip.write_text("[global]\nindex-url = https://index.example/simple\ntimeout = 10\n")
    named = {name: change[name] for name in ("settings", "history") if name in change}
    planted = {} if named else change
    layers: list[dict[str, Any]] = [FILES, planted] if planted else [FILES]
    secret = "secret" in said or "private" in said or "password" in said or "pip's" in said
    if planted and secret:  # what a later layer removes is still in the image
        folder, _, name = next(iter(planted)).rpartition("/")
        layers.append({f"{folder}/.wh.{name}": (0o644, b"")})
    archive = write_archive(tmp_path / "i.tar", *layers, **named)
    assert check.main([str(archive), "--pip-settings", str(pip)]) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert "hunter22" not in printed.err + printed.out


def test_what_is_no_single_image_is_refused(tmp_path: Path) -> None:
    import check

    two = write_archive(tmp_path / "two.tar", FILES, beside={"platform": {"os": "linux"}})
    with pytest.raises(SystemExit, match="holds 2 images; give one"):
        check.read(two)
    old = tmp_path / "old.tar"  # of `docker save` before Docker 25
    old.write_bytes(packed({"manifest.json": (0o644, b"[]")}, "w"))
    half = tmp_path / "half.tar"
    half.write_bytes(write_archive(tmp_path / "i.tar", FILES).read_bytes()[:700])
    for path in (old, half, tmp_path / "absent.tar", tmp_path):
        with pytest.raises(SystemExit, match=rf"{path} is no OCI archive of an image \("):
            check.read(path)


def test_an_image_that_is_too_large_is_noticed(tmp_path: Path, capsys: Any) -> None:
    import check

    archive = write_archive(tmp_path / "i.tar", FILES)
    assert check.main([str(archive), "--most-gib", "1e-9"]) == 1
    assert "more than 1e-09" in capsys.readouterr().err


def test_sources_and_names_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    import build

    def remotes(address: str) -> None:
        answers = {2: "origin\n", 4: f"{address}\n"}  # git remote; git remote get-url origin
        monkeypatch.setattr(build, "output", lambda *words: answers[len(words)])

    remotes("https://me:token@host.example/a/b.git")
    assert build.source() == "https://host.example/a/b.git"
    remotes("/home/somebody/b.git")
    assert build.source() == "unknown"
    for file in FOLDER.iterdir():
        if file.is_file():
            assert not re.search(r"https?://", file.read_text()), file
