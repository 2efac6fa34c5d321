"""Writes docs/ultralytics-arguments.md: what every argument of Ultralytics' does to our trainers.

python docs/ultralytics_arguments.py            tries all values; takes minutes
python docs/ultralytics_arguments.py batch seed tries those of some arguments, and prints the rows

Each value goes to Ultralytics' trainer, to `yolodata.DetectionTrainer` and to the one of
`yolodata train`, up to the end of the first step, on a few drawn pictures and with a small network.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ultralytics-arguments.md"
sys.path.insert(0, str(ROOT / "tests"))  # its drawn dataset and network

HEAD = """\
# Ultralytics' arguments

<!-- Made by `python docs/ultralytics_arguments.py`, which tries every value; change that. -->

Every argument of Ultralytics' `default.yaml`, with values of the types that it documents and with
some that it does not allow. Each was given to Ultralytics' own trainer and to both of ours
(`yolodata.DetectionTrainer`, `yolodata train`), up to the end of the first step. What was compared:
arguments afterwards, sizes of batches and loaders, optimiser, frozen parameters, accumulation; and
of refusals their words. *The same* says that nothing differed. Otherwise the values are listed that
only yolodata refuses, always with one message before anything is packed.

Written on a CPU, with ultralytics {version}. Values that need a GPU or a download are refused
there, by all alike.

| argument | taken by Ultralytics | refused by Ultralytics | yolodata |
| --- | --- | --- | --- |
"""

TAIL = """
Arguments of prediction, export and tracking do nothing in training, there and here.

- `data=[a, b]` trains on one after the other, as Ultralytics does; folders of shards may be among
  them.
- `quantize=8` (training that knows of it) needs NVIDIA's `modelopt`, as with Ultralytics.
- `YOLO(…).tune(…)` starts `yolo train` in processes of its own, without yolodata: it has no place
  for a trainer. `data=` may be a folder of shards; its pictures become files first (see below).
- `YOLO(best).val()` after training from shards, and `val(data=SHARDS)`, read the dataset that was
  packed while it is unchanged, and otherwise files that are made of the shards once.
  `yolodata val` and `validator=yolodata.DetectionValidator` read the shards themselves. All three
  give the same metrics, to the last bit.
- RT-DETR, YOLO-World and YOLOE, and the tasks classify, depth and semantic, are trained by
  Ultralytics' own trainers, with one warning. SAM, FastSAM and YOLO-NAS are refused: Ultralytics
  does not train them.
"""

NOTES = {
    "cache": "no cache is made: shards are mapped, and `yolodata.cache` is about GPUs",
    "compile": "modes that compile were not tried here",
    "device": "several GPUs: `yolodata train` starts torchrun",
    "fraction": "the first images of a split, as there",
    "multi_scale": "sizes are drawn anew in each run, there and here",
    "rect": "Ultralytics' own loader takes over, with one warning",
    "resume": "`yolodata train` also takes auto, RUN and RUN/checkpoints/….ckpt; "
    "`yolodata.DetectionTrainer` refuses auto, with which Ultralytics goes on with the newest run "
    "of any name",
    "task": "others: the trainer of that task is named, or Ultralytics' takes over",
    "workers": "native threads; `yolodata.threads` overrides it",
}

BASE = {
    "imgsz": 64, "batch": 4, "device": "cpu", "amp": False, "plots": False, "verbose": False,
    "workers": 0, "exist_ok": True, "optimizer": "SGD", "warmup_epochs": 0.0, "epochs": 1,
    "val": False, "save": False, "name": "run",
}  # fmt: skip
"""Arguments of every run that are not tried in it."""

OF_TYPE: dict[str, tuple[Any, ...]] = {
    "bool": (True, False),
    "int": (0, 1, 2, -1),
    "float": (0, 0.5, 1.0, 1.5, -0.5),
    "str": ("x",),
    "list": ([0], [0, 1], []),
    "list[int]": ([0], [0, 2]),
    "tuple": ((0.5, 1.5),),
    "optional": (None,),
}
"""Values by what default.yaml says of types, allowed ones and others."""

WRONG = (None, "x", 1.5, [1])  # of each argument, in case

MORE: dict[str, tuple[Any, ...]] = {
    "amp": ("fp16", "bf16", "fp32"),
    "augmentations": ([],),
    "batch": (0.7, 3, 7, 2.0),
    "cache": ("ram", "disk"),
    "cfg": ("nothere.yaml",),
    "classes": ([2], [7], (0, 1)),
    "close_mosaic": (10,),
    "compile": (False, 2),
    "copy_paste_mode": ("flip", "mixup"),
    "data": ("nothere.yaml",),
    "degrees": (180.0, -10.0, 720.0),
    "device": ("", "0", "0,1", [0, 1], "cuda:0", "cpu,cpu", "mps", "npu:0", "xpu:0"),
    "distill_model": ("nothere.pt",),
    "fraction": (0.5, 3, 100, [0.5, 0.5], [2, 2], [0.5, 0.5, 0]),
    "freeze": (1, [0, 1], ["6.cv2"], 100),
    "imgsz": (64, 32, 96, 100, [64], [64, 96], (64, 96), "64", "64,64", "[64,96]", 64.0),
    "mask_ratio": (4,),
    "mode": ("train",),
    "multi_scale": (0.25,),
    "nbs": (64,),
    "optimizer": (
        "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp", "auto",
    ),
    "patience": (100,),
    "perspective": (0.001,),
    "pretrained": (True,),
    "quantize": (8, 16, 32, "int8", "fp16", "w8a16"),
    "resume": ("nothere.pt",),
    "scale": ((0.5, 2.0), [0.5, 1.0], (2, 0.5), (-1, 0.5)),
    "seed": (2**31, 2**32, 2**63),
    "shear": (10.0, -10.0, 90.0),
    "split": ("val", "train", "test"),
    "task": ("detect", "segment"),
    "time": (0.5,),
}  # fmt: skip
"""Documented values, and such that somebody may give."""

INSTEAD: dict[str, tuple[Any, ...]] = {
    "compile": (False, 2, None, "x"),  # what compiles takes a minute
    "model": ("nothere.pt", "nothere.yaml", None),
    "name": ("x", 1),
    "project": (1,),
    "source": (None, "x"),
}
"""Arguments of which only these are tried."""


class Outcome(NamedTuple):
    """How a run began.

    Attributes:
        refused: type and words of the error; "" for none.
        facts: of the run, after its first step.
    """

    refused: str
    facts: dict[str, Any]


class Stop(Exception):
    """The first step is done."""


def types() -> dict[str, list[str]]:
    """Types of each argument, as the comments in default.yaml have them."""
    from ultralytics.utils import DEFAULT_CFG_PATH

    found = {}
    for line in DEFAULT_CFG_PATH.read_text(encoding="utf-8").splitlines():
        match = re.match(r"(\w+):.*?# \(([^)]*)\)", line)
        if match:
            found[match[1]] = re.findall(r"[\w\[\]]+", match[2])
    return {**found, "augmentations": ["list", "optional"]}


def values_of(name: str, kinds: list[str]) -> list[Any]:
    """What is tried of an argument."""
    tried = INSTEAD.get(name)
    if tried is None:
        of_types = [value for kind in kinds for value in OF_TYPE.get(kind, ())]
        tried = (*of_types, *MORE.get(name, ()), *WRONG)
    return list({repr(value): value for value in tried}.values())


def begun(trainer: Any, folder: Path, **values: Any) -> Outcome:
    """Trains until the first step is done, or something is refused."""
    given = {
        **BASE, "project": str(folder / "runs"), "model": str(folder / "tiny.yaml"),
        "data": str(folder / "set" / "data.yaml"), **values,
    }  # fmt: skip
    facts: dict[str, Any] = {}
    try:
        run = trainer(overrides=given)
        prepared = run.preprocess_batch

        def prepare(batch: dict[str, Any]) -> dict[str, Any]:
            done: dict[str, Any] = prepared(batch)
            if not run.args.multi_scale:
                facts["pictures"] = tuple(done["img"].shape)
            facts["batch"] = sorted(done)
            return done

        def stop(run: Any) -> None:
            facts["arguments"] = {
                name: value for name, value in vars(run.args).items() if name != "save_dir"
            }
            facts["arguments"]["name"] = re.sub(r"-\d+$", "", run.args.name)  # the next free one
            for name in ("train_loader", "test_loader"):
                loader = getattr(run, name)
                facts[name] = len(loader), len(loader.dataset), loader.batch_size
            facts["accumulate"], facts["losses"] = run.accumulate, sorted(run.loss_items)
            facts["optimizer"] = type(run.optimizer).__name__
            facts["frozen"] = [n for n, p in run.model.named_parameters() if not p.requires_grad]
            raise Stop

        run.preprocess_batch = prepare
        run.add_callback("on_train_batch_end", stop)
        run.train()
    except Stop:
        facts["arguments"]["resume"] = bool(facts["arguments"]["resume"])
        return Outcome("", facts)
    except Exception as error:
        words = str(error).strip().partition("\n")[0]
        return Outcome(f"{type(error).__name__}: {words}", {})
    return Outcome("", {"ended": True})


def outcomes(
    folder: Path, name: str, value: Any, ours: Sequence[type[Any]] | None = None
) -> list[Outcome]:
    """Of one value: Ultralytics', and those of our trainers (None: both)."""
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import LOGGER

    import yolodata
    from yolodata.train import trainer_for

    kinds = [DetectionTrainer, *(ours or [yolodata.DetectionTrainer, trainer_for("detect")])]
    level = LOGGER.level
    LOGGER.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return [begun(kind, folder, **{name: value}) for kind in kinds]
    finally:
        LOGGER.setLevel(level)


def verdict(found: list[Outcome]) -> str:
    """What became of one value: "same", "refused" (by us alone, clearly), or what is wrong."""
    theirs, *ours = found
    if all(one == theirs for one in ours):
        return "same"
    if all(one.refused.startswith("ConfigError: ") for one in ours):
        return "refused"
    if theirs.refused:
        return "; ".join(f"{one.refused} instead of {theirs.refused}" for one in ours)
    differences = [
        f"{key}: {one.facts.get(key)} instead of {value}"
        for one in ours
        for key, value in theirs.facts.items()
        if one.facts.get(key) != value
    ]
    return "; ".join([*(one.refused for one in ours if one.refused), *differences])


def row(folder: Path, name: str, kinds: list[str], wrong: list[str]) -> str:
    """A row of the table; adds to `wrong` which value does something else here."""
    taken, refused, ours = [], [], []
    for value in values_of(name, kinds):
        found = outcomes(folder, name, value)
        said, shown = verdict(found), f"`{value!r}`".replace("|", "\\|")
        if said not in ("same", "refused"):
            wrong.append(f"{name}={value!r}: {said}")
        (refused if found[0].refused else taken).append(shown)
        if said == "refused" and not found[0].refused:
            ours.append(shown)
    same = f"the same, but refuses {', '.join(ours)}" if ours else "the same"
    note = f"; {NOTES[name]}" if name in NOTES else ""
    return f"| `{name}` | {', '.join(taken)} | {', '.join(refused)} | {same}{note} |\n"


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """A folder with a drawn dataset and a network, in which runs may write."""
    from loading import draw_dataset
    from training import TINY

    sys.modules["albumentations"] = None  # type: ignore[assignment] # see tests/conftest.py
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(folder / "set", {"train": 6, "val": 3}, sides=(48, 65))
        (folder / "tiny.yaml").write_text(TINY)
        with contextlib.chdir(folder):
            yield folder


def main(arguments: list[str]) -> int:
    """Writes the page, or prints rows of it."""
    import ultralytics

    with prepared() as folder:
        rows: list[str] = []
        wrong: list[str] = []
        for name, kinds in types().items():
            if not arguments or name in arguments:
                rows.append(row(folder, name, kinds, wrong))
                print(rows[-1], end="", flush=True)
    print("\n".join(wrong), file=sys.stderr)
    if not arguments and not wrong:
        head = HEAD.replace("{version}", ultralytics.__version__)
        PAGE.write_text(head + "".join(rows) + TAIL, encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
