"""Checkpoints at a URL: whole or not there, whatever goes wrong on the way."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import S3Server, damage_body, refused, stalled, writes_data
from tenacity import RetryCallState, Retrying

from yolodata.errors import ConfigError, YolodataError
from yolodata.train.checkpoint import object_store
from yolodata.train.checkpoint.object_store import DamagedObject, ObjectStore
from yolodata.train.checkpoint.uploader import Backoff, Uploader, download_newest

QUICK = {"first": 0.01, "longest": 0.1}


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    server = S3Server()
    server.files.mkdir("runs")
    yield server
    server.stop()


@pytest.fixture
def store(running: S3Server) -> Iterator[S3Server]:
    running.requests.clear()
    yield running
    running.fault = None


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://runs/{request.node.name}"


def checkpoint(folder: Path, number: int, size: int = 100_000) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"00000-{number:08d}.ckpt"
    path.write_bytes(number.to_bytes(4, "little") * (size // 4))
    return path


def uploader(store: S3Server, url: str, **settings: Any) -> Uploader:
    return Uploader(url, options=store.options, backoff=Backoff(**QUICK), **settings)


def fetch(store: S3Server, url: str, folder: Path) -> Path | None:
    return download_newest(url, folder, options=store.options, backoff=Backoff(**QUICK))


def names(store: S3Server, url: str) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in store.files.ls(url, detail=False))


@pytest.mark.parametrize("place", ["s3", "disk", "memory"])
def test_what_was_put_comes_back_and_the_last_ones_are_kept(
    place: str, store: S3Server, url: str, tmp_path: Path
) -> None:
    there = {"s3": url, "disk": str(tmp_path / "far" / "away"), "memory": "memory://kept/here"}
    url, options = there[place], store.options if place == "s3" else {}
    assert download_newest(url, tmp_path / "back", options=options) is None
    with Uploader(url, keep=2, options=options) as up:
        for number in range(4):
            path = checkpoint(tmp_path / "run", number)
            up.put(path)
            path.unlink()  # as a writer does that keeps only the last ones
            assert up.flush(30)
        status = up.status()
    assert (status.uploaded, status.failed, status.errors) == (4, 0, 0)
    assert (status.newest, status.bytes) == ("00000-00000003.ckpt", 400_000)
    back = download_newest(url, tmp_path / "back", options=options)
    assert back == tmp_path / "back" / "00000-00000003.ckpt"
    assert back.read_bytes() == (3).to_bytes(4, "little") * 25_000
    assert os.listdir(back.parent) == [back.name]
    place_ = ObjectStore(url, options)
    assert [entry.sequence for entry in place_.entries()] == [4, 3]
    assert len(place_._place.sizes()) == 4  # two files, two manifests
    # A later process, whose file has the same name, goes on counting.
    with Uploader(url, keep=2, options=options) as up:
        up.put(checkpoint(tmp_path / "run", 0))
    assert download_newest(url, tmp_path / "back", options=options).name == "00000-00000000.ckpt"


def test_large_files_arrive_in_parts_and_are_read_back(
    store: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = 1 << 16
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", part)
    monkeypatch.setattr(object_store, "_PUT", {"s3": {"chunksize": part, "max_concurrency": 2}})
    damaged: list[str] = []

    def fault(environ: dict[str, Any], start: Any) -> None:
        if "partNumber=2" in environ["QUERY_STRING"] and not damaged:
            damaged.append(environ["PATH_INFO"])
            damage_body(environ)

    store.fault = fault
    path = checkpoint(tmp_path, 7, size=2 * part + 12_344)
    with uploader(store, url) as up:
        up.put(path)
    assert (up.status().uploaded, up.status().errors) == (1, 1)
    assert "checksum" in str(up.status().last_error)
    file, manifest = (f"/{url[5:]}/{name}" for name in names(store, url))
    asked = [line for line in store.requests if line.partition(" ")[2] in (file, manifest)]
    assert [line for line in asked if line[:4] == "POST"] == [f"POST {file}"] * 4  # begin, complete
    sent = len(asked) - asked[::-1].index(f"POST {file}")
    assert f"GET {file}" in asked[sent : asked.index(f"PUT {manifest}")]
    assert fetch(store, url, tmp_path / "back").read_bytes() == path.read_bytes()


def run_files(folder: Path, epoch: int) -> dict[str, Path]:
    """A run folder after an epoch; the best weights are the first one's."""
    files = {"weights/last.pt": epoch, "weights/best.pt": 0, "results.csv": epoch, "labels.jpg": 0}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} of {content}".encode() * 1000)
    return {name: folder / name for name in files}


def fetched(store: S3Server, url: str, folder: Path) -> tuple[str, dict[str, bytes]]:
    """The newest checkpoint, and the files that came with it."""
    place = folder / "beside"
    found = download_newest(
        url, folder, beside=place, options=store.options, backoff=Backoff(**QUICK)
    )
    assert found is not None
    paths = [path for path in place.rglob("*") if path.is_file()]
    return found.name, {str(path.relative_to(place)): path.read_bytes() for path in paths}


def test_files_beside_come_back_and_are_sent_once(
    store: S3Server, url: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with uploader(store, url, keep=2) as up:
        for epoch in range(4):
            files = run_files(run, epoch)
            up.put(checkpoint(tmp_path / "ckpt", epoch), files)
            for name in ("results.csv", "labels.jpg"):  # written on while the thread uploads
                files[name].write_bytes(b"later")
            assert up.flush(30)
    run_files(run, 3)
    name, found = fetched(store, url, tmp_path / "back")
    assert name == "00000-00000003.ckpt"
    assert found == {name: path.read_bytes() for name, path in run_files(run, 3).items()}
    sent = [line for line in store.requests if line.startswith("PUT")]
    assert (
        sum("best.pt" in line for line in sent) == sum("labels.jpg" in line for line in sent) == 1
    )
    assert sum("last.pt" in line for line in sent) == 4
    # Two checkpoints, their manifests, two of what changes, one of what does not.
    assert len(names(store, url)) == 2 + 2 + 2 * 2 + 2
    with uploader(store, url, keep=1) as up:  # of another process, which knows them from there
        up.put(checkpoint(tmp_path / "ckpt", 4), run_files(run, 4))
    assert sum("best.pt" in line for line in store.requests if line.startswith("PUT")) == 1
    assert len(names(store, url)) == 1 + 1 + 4


def test_wherever_an_upload_ends_the_state_before_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: S3Server
) -> None:
    """Each write in turn is the last one; half of it arrives."""
    writes = {name: getattr(MemoryFileSystem, name) for name in ("put_file", "pipe_file")}
    left = 10**6

    def cut(name: str) -> Any:
        def write(self: Any, first: Any, second: Any, **given: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PermissionError("the machine is gone")
            writes[name](self, first, second, **given)
            if left == 0:  # a store that shows what it has
                path = second if name == "put_file" else first
                data = self.cat_file(path)
                self.store[self._strip_protocol(path)].seek(0)
                self.store[self._strip_protocol(path)].truncate(len(data) // 2)

        return write

    for name in writes:
        monkeypatch.setattr(MemoryFileSystem, name, cut(name))
    store.options, kept = {}, store.options
    try:
        for ends in range(1, 20):
            left, place = 10**6, f"memory://cut/{tmp_path.name}/{ends}"
            before = run_files(tmp_path / "run", 0)
            expected = {name: path.read_bytes() for name, path in before.items()}
            with Uploader(place, keep=1) as up:
                up.put(checkpoint(tmp_path / "ckpt", 0), before)
            left = ends
            with Uploader(place, keep=1, patience=0) as up:
                up.put(checkpoint(tmp_path / "ckpt", 1), run_files(tmp_path / "run", 1))
                arrived = up.flush(30)
            left = 10**6
            name, found = fetched(store, place, tmp_path / f"back{ends}")
            if arrived:
                assert name == "00000-00000001.ckpt"
                break
            assert (name, found) == ("00000-00000000.ckpt", expected)
    finally:
        store.options = kept
    assert ends == 5  # two changed files, the checkpoint, its manifest: four writes, all cut once


def test_a_damaged_file_beside_is_left_out(
    store: S3Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with uploader(store, url) as up:
        up.put(checkpoint(tmp_path / "ckpt", 0), run_files(tmp_path / "run", 0))
    files = names(store, url)
    [best], [last] = (
        [name for name in files if name.endswith(end)] for end in ("best.pt", "last.pt")
    )
    store.files.pipe(f"{url}/{best}", b"x" * 1000)
    store.files.rm(f"{url}/{last}")
    with caplog.at_level(logging.WARNING, "yolodata"):
        name, found = fetched(store, url, tmp_path / "back")
    assert name == "00000-00000000.ckpt"
    assert found.keys() == {"results.csv", "labels.jpg"}
    assert sum("is left out" in line for line in caplog.messages) == 2


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//x", ""])
def test_files_beside_do_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    url = f"memory://beside/{tmp_path.name}"
    with Uploader(url) as up:
        up.put(checkpoint(tmp_path, 1), run_files(tmp_path / "run", 0))
    place = ObjectStore(url)
    [entry] = place.entries()
    manifest = json.loads(place._place.head(entry.manifest, 10_000))
    manifest["beside"][0]["name"] = name
    place._place.put_bytes(entry.manifest, json.dumps(manifest).encode())
    with pytest.raises(DamagedObject, match="no whole manifest"):
        place.manifest(entry)


def test_an_outage_is_waited_for_and_reported_once(
    store: S3Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = iter([("500 Internal Server Error", "InternalError")] * 3)

    def fault(environ: dict[str, Any], start: Any) -> Iterable[bytes] | None:
        refusal = next(refusals, None) if writes_data(environ) else None
        return None if refusal is None else refused(start, *refusal)

    store.fault = fault
    with uploader(store, url) as up:
        up.put(checkpoint(tmp_path, 1))
        assert up.flush(30)
    status = up.status()
    assert status.uploaded == 1
    assert status.errors >= 1  # botocore itself repeats some
    assert next(refusals, None) is None
    warnings = [r for r in caplog.records if "upload" in r.message]
    assert len(warnings) == 1
    assert "Training goes on" in warnings[0].message


def test_what_arrives_damaged_is_sent_again(store: S3Server, url: str, tmp_path: Path) -> None:
    damaged = []

    def fault(environ: dict[str, Any], start: Any) -> None:
        if writes_data(environ) and not damaged:
            damaged.append(environ["PATH_INFO"])
            damage_body(environ)

    store.fault = fault
    path = checkpoint(tmp_path / "run", 1)
    with uploader(store, url) as up:
        up.put(path)
        assert up.flush(30)
    assert damaged
    assert up.status().errors == 1
    assert "checksum" in (up.status().last_error or "")
    assert fetch(store, url, tmp_path / "back").read_bytes() == path.read_bytes()


def test_without_a_server_nothing_is_raised_and_nobody_waits(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
    nobody["config_kwargs"] = {"retries": {"max_attempts": 0}}
    up = Uploader(url, options=nobody, backoff=Backoff(**QUICK), patience=60)
    for number in range(3):
        start = time.perf_counter()
        up.put(checkpoint(tmp_path, number))
        assert time.perf_counter() - start < 20  # of a patience of 60 s
    assert not up.close(timeout=1)
    status = up.status()
    assert (status.uploaded, status.waiting) == (0, None)
    assert status.replaced >= 1
    assert "time was up" in caplog.text
    with pytest.raises(ConfigError, match="closed"):
        up.put(tmp_path / "00000-00000000.ckpt")


def test_newest_does_not_take_an_unreachable_url_for_an_empty_one(
    store: S3Server, url: str, tmp_path: Path
) -> None:
    store.fault = lambda environ, start: refused(start, "403 Forbidden", "AccessDenied")
    with pytest.raises(YolodataError, match=r"cannot be read.*see to access"):
        fetch(store, url, tmp_path)
    answers = iter([("500 Internal Server Error", "InternalError")] * 2)

    def for_a_while(environ: dict[str, Any], start: Any) -> Iterable[bytes] | None:
        answer = next(answers, None)
        return None if answer is None else refused(start, *answer)

    store.fault = for_a_while
    assert fetch(store, url, tmp_path) is None


def test_an_interrupted_download_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def interrupted(self: ObjectStore) -> None:
        asked.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectStore, "entries", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_newest("memory://interrupted", tmp_path, backoff=Backoff(**QUICK))
    assert len(asked) == 1


def test_lasting_refusals_are_given_up_until_the_next_file(
    store: S3Server, url: str, tmp_path: Path
) -> None:
    store.fault = lambda environ, start: (
        refused(start, "403 Forbidden", "AccessDenied") if writes_data(environ) else None
    )
    with uploader(store, url, patience=2) as up:
        up.put(checkpoint(tmp_path, 1))
        assert not up.flush(30)
        status = up.status()
        assert (status.failed, status.uploaded, status.errors) == (1, 0, 1)
        store.fault = None
        up.put(checkpoint(tmp_path, 2))
        assert up.flush(30)
        up.put(tmp_path / "never written.ckpt")
    assert (up.status().failed, up.status().uploaded) == (2, 1)


def test_a_pause_ends_when_there_is_something_else_to_do(
    store: S3Server, url: str, tmp_path: Path
) -> None:
    def refuse(environ: dict[str, Any], start: Any) -> Iterable[bytes] | None:
        return refused(start, "500 Oh", "InternalError") if writes_data(environ) else None

    up = Uploader(url, options=store.options, backoff=Backoff(100.0, 100.0))
    for number, fault in enumerate((refuse, None, refuse)):
        errors, store.fault = up.status().errors, fault
        up.put(checkpoint(tmp_path, number))
        while fault and up.status().errors == errors:
            time.sleep(0.01)
        assert fault or up.flush(30)  # the newer file did not wait
    assert (up.status().uploaded, up.status().replaced) == (1, 1)
    assert not up.close(0)
    up._thread.join(30)
    assert not up._thread.is_alive()
    assert up.status().failed == 1


def test_a_newer_file_replaces_the_waiting_one(store: S3Server, url: str, tmp_path: Path) -> None:
    with uploader(store, url) as up:
        with stalled(store) as began:
            up.put(checkpoint(tmp_path, 0))
            assert began.wait(30)
            for number in (1, 2, 3):
                up.put(checkpoint(tmp_path, number))
            assert up.status().uploading == "00000-00000000.ckpt"
            assert up.status().waiting == "00000-00000003.ckpt"
            assert not up.flush(0.01)
        assert up.flush(30)
    assert (up.status().uploaded, up.status().replaced) == (2, 2)
    assert fetch(store, url, tmp_path / "back").name == "00000-00000003.ckpt"


def test_what_is_damaged_on_the_way_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, fetched = MemoryFileSystem.open, []

    def damaging(self: MemoryFileSystem, path: str, *args: Any, **given: Any) -> Any:
        data = opened(self, path, *args, **given).read()
        fetched.append(path)
        return io.BytesIO(data if len(fetched) > 1 else b"?" + data[1:])

    url = f"memory://damaged/{tmp_path.name}"
    with Uploader(url) as up:
        up.put(checkpoint(tmp_path / "run", 1))
    monkeypatch.setattr(MemoryFileSystem, "open", damaging)
    back = download_newest(url, tmp_path / "back")
    assert back.read_bytes() == (tmp_path / "run" / back.name).read_bytes()
    assert len(fetched) == 2


def test_damaged_and_incomplete_files_are_passed_over(
    store: S3Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with uploader(store, url, keep=9) as up:
        for number in range(5):
            up.put(checkpoint(tmp_path / "run", number))
            assert up.flush(30)
    files = store.files
    data = [name for name in names(store, url) if name.endswith(".ckpt")]
    manifests = [name for name in names(store, url) if name.endswith(".json")]
    files.pipe(f"{url}/{data[4]}", b"\1" + files.cat(f"{url}/{data[4]}")[1:])  # a byte is another
    files.pipe(f"{url}/{manifests[3]}", files.cat(f"{url}/{manifests[3]}")[:-9])  # cut
    files.rm(f"{url}/{data[2]}")
    escape = json.loads(files.cat(f"{url}/{manifests[1]}"))
    escape["name"] = "../escaped.ckpt"
    escape["file"] = f"{manifests[1][:25]}-../escaped.ckpt"
    files.pipe(f"{url}/{manifests[1]}", json.dumps(escape).encode())
    files.pipe(f"{url}/00000009-{'0' * 16}.json", b"")  # no part of which can be asked for
    with caplog.at_level(logging.WARNING, "yolodata"):
        back = fetch(store, url, tmp_path / "back")
    assert back is not None
    assert back.name == "00000-00000000.ckpt"
    told = [r.message for r in caplog.records if "looking for an older one" in r.message]
    assert "it has 0 bytes" in told.pop(0)
    assert [("checksum" in m, "manifest" in m, "not there" in m) for m in told] == [
        (True, False, False), (False, True, False), (False, False, True), (False, True, False),
    ]  # fmt: skip
    assert os.listdir(back.parent) == [back.name]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "x\0y"])
def test_names_do_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    url = f"memory://names/{tmp_path.name}"
    with Uploader(url) as up:
        up.put(checkpoint(tmp_path, 1))
    place = ObjectStore(url)
    [entry] = place.entries()
    manifest = json.loads(place._place.head(entry.manifest, 10_000))
    manifest |= {"name": name, "file": f"{entry.stem}-{name}"}
    place._place.put_bytes(entry.manifest, json.dumps(manifest).encode())
    with pytest.raises(DamagedObject, match="no whole manifest"):
        place.manifest(entry)


def test_a_store_that_hangs_holds_nobody_up(
    store: S3Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with stalled(store) as began:
        up = uploader(store, url)
        up.put(checkpoint(tmp_path, 1))
        assert began.wait(30)
        start = time.monotonic()
        up.put(checkpoint(tmp_path, 2))
        assert not up.close(timeout=0.2)
        assert time.monotonic() - start < 20
        assert "00000-00000002.ckpt is not at" in caplog.text


def test_killed_in_the_middle_of_an_upload(store: S3Server, url: str, tmp_path: Path) -> None:
    with uploader(store, url) as up:
        up.put(checkpoint(tmp_path / "run", 1))
    child = textwrap.dedent(f"""
        from yolodata.train.checkpoint.uploader import Uploader
        up = Uploader({url!r}, options={store.options!r})
        up.put({str(checkpoint(tmp_path / "run", 2))!r})
        up.flush()
    """)
    with stalled(store) as began:
        process = subprocess.Popen([sys.executable, "-c", child])
        assert began.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60  # the server, on its own, still stores what it received
    while len(names(store, url)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(names(store, url)) == 3  # a file without a manifest
    assert fetch(store, url, tmp_path / "back").name == "00000-00000001.ckpt"
    with uploader(store, url, keep=1) as up:
        up.put(checkpoint(tmp_path / "run", 3))
    assert len(names(store, url)) == 2  # what was left half-way is gone, too
    assert fetch(store, url, tmp_path / "back").name == "00000-00000003.ckpt"


def test_runs_beside_each_other_do_not_meet(store: S3Server, url: str, tmp_path: Path) -> None:
    runs = ["a", "ab", "a/b"]  # one is a prefix of the others, one lies within another
    ups = {run: uploader(store, f"{url}/{run}", keep=1) for run in runs}
    for number in range(3):
        for i, run in enumerate(runs):
            ups[run].put(checkpoint(tmp_path / run.replace("/", "-"), 10 * i + number))
        assert all(up.flush(30) for up in ups.values())
    for i, run in enumerate(runs):
        assert ups[run].close(30)
        back = fetch(store, f"{url}/{run}", tmp_path / "back")
        assert back is not None
        assert back.name == f"00000-{10 * i + 2:08d}.ckpt"


def test_nothing_is_left_behind(store: S3Server, url: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    handles = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        with uploader(store, url) as up:
            up.put(checkpoint(tmp_path, number))
        del up
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith("yolodata")}
    deadline = time.monotonic() + 60
    while len(os.listdir("/proc/self/fd")) > handles + 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= handles + 4  # fsspec keeps a loop of its own


def test_settings_that_cannot_work_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="keep must be at least 1, got 0"):
        Uploader("memory://x", keep=0)
    with pytest.raises(ConfigError, match=r"must be a path or one .*s3://.* got 'nosuch://x'"):
        Uploader("nosuch://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    importlib.import_module("fsspec")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'yolodata\[s3\]'"):
        Uploader("s3://x/y")


def test_pauses_double_up_to_a_limit() -> None:
    random.seed(1)
    state = random.getstate()
    backoff, attempts = Backoff(1.0, 8.0), RetryCallState(Retrying(), None, (), {})
    for number, longest in enumerate((1, 2, 4, 8, 8, 8), 1):
        attempts.attempt_number = number
        assert longest / 2 <= backoff(attempts) <= longest
    assert random.getstate() == state  # the training's own draws stay what they are
