"""Secrets in URLs are nowhere but in the memory of the process that was given them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import fsspec
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from training import arguments, prepare, train

from yolodata.cli import main
from yolodata.errors import ConfigError, YolodataError
from yolodata.train import TrainSettings, trainer_for
from yolodata.train.checkpoint.run_folder import FOLDER, find_newest
from yolodata.train.checkpoint.uploader import Backoff, Uploader, download_newest
from yolodata.train.train_cli import of_run

SECRETS = ("pa55w0rd", "t0ken5ecret")
URL = "vault://me:pa55w0rd@host/run?token=t0ken5ecret"
SHOWN = "vault://***@host/run?token=***"


class Vault(MemoryFileSystem):
    """Files of one address, which names it in its errors, as many do."""

    protocol = "vault"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    broken = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("@")[2].partition("?")[0] + path.partition("#")[2]

    def _fail(self) -> None:
        if self.broken:
            raise OSError(f"cannot connect to {URL} with t0ken5ecret")

    def ls(self, path: str, detail: bool = True, **given: Any) -> Any:
        self._fail()
        return [
            {"name": name, "type": "file", "size": len(data)} for name, data in self.store.items()
        ]

    def put_file(self, source: str, target: str, **given: Any) -> None:
        self._fail()
        self.store[target] = Path(source).read_bytes()

    def pipe_file(self, path: str, value: bytes, **given: Any) -> None:
        self._fail()
        self.store[path] = value

    def open(self, path: str, mode: str = "rb", **given: Any) -> Any:
        import io

        self._fail()
        return io.BytesIO(self.store[path])

    def cat_file(self, path: str, start: Any = None, end: Any = None, **given: Any) -> bytes:
        return bytes(self.store[path][start:end])

    def rm_file(self, path: str) -> None:
        self.store.pop(path, None)


@pytest.fixture
def vault() -> Iterator[type[Vault]]:
    fsspec.register_implementation("vault", Vault, clobber=True)
    Vault.store.clear()
    yield Vault
    Vault.broken = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("train"))


def assert_none(text: str | bytes, where: object = "") -> None:
    for secret in SECRETS:
        found = secret.encode() if isinstance(text, bytes) else secret
        assert found not in text, (where, secret)


def test_a_run_keeps_no_secret_and_goes_on_with_the_url_given_again(
    vault: type[Vault],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = trainer_for("detect").configure(upload=URL)
    train(settings, arguments(folder, "kept", epochs=1, resume="auto"))
    assert any(name.endswith("yolodata.yaml") for name in vault.store)
    run = folder / "runs" / "kept"
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".ckpt", ".yaml", ".pt", ".csv", ".jsonl"}
    for path in files:
        assert_none(path.read_bytes(), path)
    for name, data in vault.store.items():
        assert_none(name)
        assert_none(data, name)
    assert yaml.safe_load((run / "yolodata.yaml").read_text())["upload"] == SHOWN
    said = capfd.readouterr()
    assert_none(said.out + said.err + caplog.text)
    # Without the URL, resume=RUN cannot know it; with it, all else is the run's.
    with pytest.raises(ConfigError, match=r"without its secret.*give yolodata.upload=URL again"):
        of_run({"resume": str(run)}, {})
    upstream, ours = of_run({"resume": str(run)}, {"upload": URL})
    assert upstream["epochs"] == 1
    assert ours == {"upload": URL}
    assert of_run({"resume": str(run)}, {"upload": None})[1] == {"upload": None}


def test_errors_and_warnings_of_an_upload_show_none(
    vault: type[Vault], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quick = Backoff(0.001, 0.002)
    path = checkpoints.write(tmp_path / FOLDER, 1)
    Vault.broken = True
    up = Uploader(URL, backoff=quick, patience=0.01)
    up.put(path)
    assert not up.close(5)
    with pytest.raises(ConfigError) as closed:
        up.put(path)
    with pytest.raises(YolodataError) as unread:
        download_newest(URL, tmp_path, backoff=quick)
    for error in (closed, unread):
        assert SHOWN in str(error.value)
        assert_none(str(error.value) + repr(error.getrepr(chain=True)))
    Vault.broken = False
    with Uploader(URL) as up:
        up.put(path)
    for name in list(Vault.store):
        if name.endswith(".ckpt"):
            Vault.store[name] = b"damaged"
    assert find_newest(tmp_path / "run", URL) is None
    assert SHOWN in caplog.text
    assert_none(caplog.text)
    assert_none(str(up.status()))


@pytest.mark.parametrize(
    "word",
    [
        "yolodata.upload=nosuch://me:pa55w0rd@host/run?token=t0ken5ecret",
        "yolodata.upload=ftp://me:pa55w0rd@127.0.0.1:9/run",
        "yolodata.uplaod=s3://me:pa55w0rd@b",
        "s3://me:pa55w0rd@b",
        "yolodata.upload=['s3://me:pa55w0rd@b']",
        "data=https://me:pa55w0rd@host/data.zip",
        "data=https://host/data.zip?X-Amz-Signature=t0ken5ecret",
        "model=https://host/x.pt?sig=t0ken5ecret",
        "pretrained=https://host/x.pt?sig=t0ken5ecret",
    ],
)
def test_mistakes_on_the_command_line_show_none(
    word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["model=none.yaml", "data=none.yaml", f"project={tmp_path}"]
    words = [each for each in words if each.partition("=")[0] != word.partition("=")[0]]
    assert main(["train", *words, word]) == 2
    said = capfd.readouterr()
    assert "***" in said.err or "uplaod" in said.err
    assert_none(said.out + said.err)


def test_arguments_of_scripts_hold_none(folder: Path) -> None:
    values = arguments(folder, "refused", data="https://host/data.zip?sig=t0ken5ecret")
    with pytest.raises(ConfigError, match=r"data is a URL with a secret .*sig=\*\*\*") as error:
        trainer_for("detect")(overrides=values)
    assert_none(str(error.value))
    assert not (folder / "runs" / "refused").exists()


def test_what_others_print_in_our_commands_shows_none() -> None:
    """Errors that nobody foresaw, loggers of libraries, and the command line that trackers keep."""
    code = f"""
import logging, sys, threading
from yolodata import cli
logging.getLogger("ultralytics").addHandler(logging.StreamHandler())
def fail(words):
    assert words == ["train", "yolodata.upload=" + {URL!r}]
    print(sys.argv, file=sys.stderr)
    logging.getLogger("ultralytics").warning("logging to %s", {URL!r})
    logging.getLogger("gcsfs.retry").warning("trying %s again", {URL!r})
    try:
        raise OSError({URL!r})
    except OSError:
        logging.getLogger("gcsfs").exception("no")
    thread = threading.Thread(target=broken)
    thread.start()
    thread.join()
    raise RuntimeError("cannot reach {URL}")
def broken():
    raise OSError({URL!r})
cli._run = fail
sys.exit(cli.main())
"""
    command = [sys.executable, "-c", code, "train", f"yolodata.upload={URL}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"['-c', 'train', 'yolodata.upload={SHOWN}']" in done.stderr
    assert done.stderr.count(SHOWN) == 6
    assert "Traceback" in done.stderr
    assert "in fail" in done.stderr
    assert_none(done.stderr.replace(code, ""))


def test_settings_without_a_url_are_kept_as_they_are(tmp_path: Path) -> None:
    TrainSettings(folder="/data/token=abcdefgh", upload="s3://bucket/run").save(tmp_path)
    found = TrainSettings.of_run(tmp_path)
    assert found is not None
    assert (found.folder, found.upload) == ("/data/token=abcdefgh", "s3://bucket/run")
