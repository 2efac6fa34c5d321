"""Secrets of URLs stay out of everything that is printed or kept."""

from __future__ import annotations

import logging
import sys
import threading
import time

import pytest

from yolodata.redaction import hide_secrets, redacted, secrets_of, stored

HIDDEN = {
    "s3://AKIAEXAMPLE:wJal/rX+UtnFEMI@bucket/run": "s3://***@bucket/run",
    "ftp://me:pass%40word@host:21/run": "ftp://***@host:21/run",
    "https://ghp_token@host/x": "https://***@host/x",
    "https://host/x?token=abcdefgh&dl=1": "https://host/x?token=***&dl=1",
    "https://a.blob.core.windows.net/c/x?sv=2022-11-02&sig=abc%2Fdef%3D": (
        "https://a.blob.core.windows.net/c/x?sv=***&sig=***"
    ),
    "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=0123456789": (
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=***&X-Amz-Signature=***"
    ),
    "https://host/x?abcdefgh": "https://host/x?***",
    "ftp://me:pass#word@host/run?v=1#a": "ftp://***@host/run?v=1#a",
    "ftp://me:pa?ss/wo#rd@host/run": "ftp://***@host/run",
    "s3://k:12345/abc@bucket/run": "s3://***@bucket/run",
    "https://host:8080/x?email=a@b.c": "https://host:8080/x?email=***",
    "Authorization: Token abcdefghij": "Authorization: ***",
    "https://host/x#access_token=abcdefgh": "https://host/x#access_token=***",
    "https://host/x#code=abcdefgh": "https://host/x#code=***",
    "filecache::s3://k:secret@b/x?token=abcdefgh": "filecache::s3://***@b/x?token=***",
    "zip://a.csv::https://u:secret@[::1]:9000/x?sig=abcdef": (
        "zip://a.csv::https://***@[::1]:9000/x?sig=***"
    ),
    "Cannot connect to 'http://u:secret@h/x?token=abcdefgh', sorry": (
        "Cannot connect to 'http://***@h/x?token=***', sorry"
    ),
    "two: s3://a:secret@b, s3://c:secret@d": "two: s3://***@b, s3://***@d",
    "S3FileSystem(secret='abcdefgh', aws_secret_access_key=\"abcdefgh\")": (
        "S3FileSystem(secret='***', aws_secret_access_key=\"***\")"
    ),
    "Authorization: Bearer abcdefgh": "Authorization: ***",
    "sig=abcdefgh; SAS: abcdefgh; sas_url=abcdefgh": "sig=***; SAS: ***; sas_url=***",
    "AccountName=me;AccountKey=abcdefgh==;x": "AccountName=me;AccountKey=***;x",
    "http:/me:secret@host/a": "http:/***@host/a",  # as Path writes it
    "Max retries exceeded with url: /x.zip?code=abcdefgh&dl=1 (": (
        "Max retries exceeded with url: /x.zip?code=***&dl=1 ("
    ),
}
SHOWN = [
    "s3://bucket/runs/a",
    "https://drive.google.com/uc?export=download&id=0123456789",
    "https://zenodo.org/x.zip?download=1",
    "abfs://container@account.dfs.core.windows.net/run",
    "hf://datasets/me/them@main/x",
    "gs://bucket/a@b",
    "it took 3 s: runs/train, epoch 3 of 4; see https://docs.host/page#part",
    "memory://a/b",
    "yolodata: SIGTERM: stopped while setting up; sigma=0.12345, SASKATOON: 12345",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_are_hidden(text: str) -> None:
    assert redacted(text) == HIDDEN[text]
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize("text", SHOWN)
def test_the_rest_is_shown(text: str) -> None:
    assert redacted(text) == text
    assert stored([text, {"a": text}]) == [text, {"a": text}]


def test_paths_are_kept_as_they_are() -> None:
    for path in ("/mnt/a?b=cdefghij", "/data/token=abcdefgh"):
        assert stored(path) == path
    assert stored({"a": ["s3://k:secret@b/x"]}) == {"a": ["s3://***@b/x"]}


def test_known_secrets_are_hidden_wherever_they_are() -> None:
    options = {"key": "AKIAEXAMPLE", "client_kwargs": {"aws_session_token": "tokentoken"}}
    options |= {"secret": "s", "region": "eu-west-1"}  # too short to be looked for; none
    known = secrets_of("ftp://me:pass%40word@host/x?sig=aa%2Fbbb#code=cccccc", options)
    said = "AKIAEXAMPLE cccccc tokentoken pass@word pass%40word aa/bbb eu-west-1 s"
    assert redacted(said, known) == "*** *** *** *** *** *** eu-west-1 s"


@pytest.mark.parametrize("text", ["a", "a.", "a:/", "::a://", "token", "token=", "?", "&a=", "@"])
def test_long_texts_take_no_longer_than_they_are_long(text: str) -> None:
    begun = time.process_time()
    redacted(text * (300_000 // len(text)))
    redacted("s3://" + text * (300_000 // len(text)))
    assert time.process_time() - begun < 5  # a second, where quadratic time would be hours


def test_no_log_acts_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    last = logging._StderrHandler(logging.WARNING)
    monkeypatch.setattr(logging, "lastResort", last)
    hide_secrets()
    record = logging.LogRecord("a", logging.WARNING, "", 1, "%s\n%s", ("a\x1b[2J\u202e", "b"), None)
    last.handle(record)
    assert capsys.readouterr().err == "a\\x1b[2J\\u202e\nb\n"
