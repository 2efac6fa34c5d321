"""The swap-in: Ultralytics trains on our loaders, and everything else stays its own."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import draw_dataset, grouped, packed
from training import network

import yolodata
from yolodata.cli import main
from yolodata.errors import ConfigError, YolodataError
from yolodata.parity.validation import upstream_dataset
from yolodata.pipeline.options import DeviceOptions
from yolodata.ultralytics.command_line import read_arguments
from yolodata.ultralytics.fallback import why_not
from yolodata.ultralytics.settings import SETTINGS_FILE, Settings

pytestmark = pytest.mark.early

QUIET = {
    "imgsz": 64, "batch": 4, "device": "cpu", "amp": False, "plots": False, "verbose": False,
    "workers": 0, "exist_ok": True, "optimizer": "SGD", "warmup_epochs": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _where_torchvision_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's validator imports it and does not use it here; CPU builds of torch may lack it."""
    import sys
    import types

    try:
        import torchvision  # noqa: F401
    except Exception:
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return draw_dataset(tmp_path / "set", {"train": 10, "val": 5})


def tree(folder: Path) -> str:
    """Everything under a folder, in one hash."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(str(file.relative_to(folder)).encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def train(tmp_path: Path, data: Path, name: str = "run", **settings: Any) -> Any:
    from ultralytics import YOLO

    trainer = settings.pop("trainer", yolodata.DetectionTrainer)
    model = YOLO(settings.pop("model", network()))
    seen: dict[str, list[str]] = {}

    def note(trainer: Any) -> None:
        # After preprocess_batch; the loader's own position says which batch it was.
        state = trainer.train_loader.state_dict()
        seen.setdefault(str(trainer.epoch), []).append(f"{state['epoch']}:{state['position']}")

    model.add_callback("on_train_batch_end", note)
    values = {**QUIET, "epochs": 2, "project": str(tmp_path / "runs"), "name": name, **settings}
    model.train(data=str(data), trainer=trainer, **values)
    return model.trainer, seen


def validated_both_ways(trainer: Any) -> list[dict[str, float]]:
    """What upstream's validator finds in training, by our validation loader and by its own.

    With losses: metrics of so little training are zero, whatever the labels are.
    """
    from ultralytics.data.build import build_dataloader

    args, shards = trainer.args, trainer.test_loader.dataset.subset.shards.path
    ours = yolodata.ValidationLoader(shards, 8, **grouped(imgsz=args.imgsz, task=args.task))
    dataset = upstream_dataset(Path(args.data), "val", args.imgsz, "val", 8, task=args.task)
    theirs = build_dataloader(dataset, 8, 0, shuffle=False, rank=-1)
    results = []
    for loader in (ours, theirs):
        trainer.validator.dataloader = loader
        results.append(trainer.validator(trainer))
    return results


def test_trains_validates_plots_and_leaves_the_source_alone(tmp_path: Path, drawn: Path) -> None:
    before = tree(drawn.parent)
    trainer, seen = train(tmp_path, drawn, plots=True, close_mosaic=1, cls_pw=0.5)
    assert isinstance(trainer.train_loader, yolodata.Loader)
    assert isinstance(trainer.test_loader, yolodata.ValidationLoader)
    assert tree(drawn.parent) == before
    assert seen["0"] == ["0:4", "0:8", "0:10"] or seen["0"][-1].startswith("1:")
    files = {file.name for file in trainer.save_dir.iterdir()}
    assert {"args.yaml", "results.csv", "labels.jpg", "train_batch0.jpg", SETTINGS_FILE} <= files
    assert any(name.startswith("val_batch0") for name in files)
    # A checkpoint is upstream's alone.
    checkpoint = torch.load(trainer.last, weights_only=False)
    assert "yolodata" not in checkpoint["train_args"]
    assert b"yolodata" not in (trainer.save_dir / "args.yaml").read_bytes().replace(
        str(tmp_path).encode(), b""
    )


def test_shard_folder_as_data(tmp_path: Path, drawn: Path) -> None:
    shards = tmp_path / "shards"
    for split in ("train", "val"):
        packed(drawn, shards, "raw", 64, splits=[split])
    trainer, _ = train(tmp_path, shards, epochs=1)
    assert len(trainer.train_loader.dataset) == 10
    with pytest.raises(YolodataError, match=r"imgsz|rect"):
        train(tmp_path, shards, epochs=1, imgsz=96)
    with pytest.raises(YolodataError, match="rect"):
        train(tmp_path, shards, epochs=1, rect=True)


def test_packs_once_and_again_when_the_source_changed(tmp_path: Path, drawn: Path) -> None:
    trainer, _ = train(tmp_path, drawn, epochs=1)
    folder = trainer.train_loader.dataset.subset.shards.path
    assert drawn.parent not in folder.parents
    shard = next(folder.glob("shard-*.safetensors"))
    stamp = shard.stat().st_mtime_ns
    train(tmp_path, drawn, epochs=1)
    assert shard.stat().st_mtime_ns == stamp
    label = sorted((drawn.parent / "labels" / "train").glob("*.txt"))[0]
    label.write_text("0 0.5 0.5 0.25 0.25\n")
    trainer, _ = train(tmp_path, drawn, epochs=1)
    assert shard.stat().st_mtime_ns == stamp  # only the labels were read again
    assert trainer.train_loader.dataset.labels[0]["bboxes"].tolist() == [[0.5, 0.5, 0.25, 0.25]]
    image = sorted((drawn.parent / "images" / "train").iterdir())[0]
    image.unlink()
    trainer, _ = train(tmp_path, drawn, epochs=1)
    assert len(trainer.train_loader.dataset) == 9


def test_single_cls_does_not_pack_again(tmp_path: Path, drawn: Path) -> None:
    """What is packed serves both, or each has its own, where classes without a name decide."""
    from yolodata.ultralytics.auto_pack import packed as kept

    def folder(single_cls: bool) -> tuple[Path, int, list[int]]:
        data = {"yaml_file": str(drawn), "path": str(drawn.parent)}
        how = {"single_cls": single_cls, "task": "detect", "show": False}
        shards = kept(data, "train", 64, Settings(workers=1), **how)
        files = sorted(shards.path.glob("shard-*"))
        return shards.path, len(shards), [file.stat().st_mtime_ns for file in files]

    assert folder(False) == folder(True) == folder(False)
    label = sorted((drawn.parent / "labels" / "train").glob("*.txt"))[0]
    label.write_text("9 0.5 0.5 0.25 0.25\n")
    before = folder(False), folder(True)
    assert before[0][0] != before[1][0]
    assert (before[0][1], before[1][1]) == (9, 10)
    assert (folder(False), folder(True)) == before


@pytest.mark.parametrize("common", [False, True])
def test_yaml_files_of_one_name_do_not_share_shards(
    tmp_path: Path, drawn: Path, common: bool
) -> None:
    """Folds of one dataset; or datasets of one name that are packed into a common folder."""
    from yolodata.ultralytics.auto_pack import packed as kept

    def opened(yaml: Path, root: Path) -> yolodata.ShardDataset:
        settings = Settings(workers=1, folder=str(tmp_path / "common") if common else None)
        data = {"yaml_file": str(yaml), "path": str(root)}
        return kept(data, "train", 64, settings, single_cls=False, task="detect", show=False)

    if common:
        second = draw_dataset(tmp_path / "other" / "set", {"train": 10, "val": 5}, seed=1)
        first = opened(drawn, drawn.parent), opened(second, second.parent)
    else:
        folds = []
        for number in range(2):
            files = sorted((drawn.parent / "images" / "train").iterdir())[5 * number :][:5]
            fold = tmp_path / f"fold{number}"
            fold.mkdir()
            (fold / "train.txt").write_text("\n".join(map(str, files)))
            text = drawn.read_text().replace("images/train", str(fold / "train.txt"))
            (fold / "data.yaml").write_text(text)
            folds.append(fold / "data.yaml")
        first = opened(folds[0], drawn.parent), opened(folds[1], drawn.parent)
    assert first[0].path != first[1].path
    assert not np.array_equal(first[0].image(0), first[1].image(0))


def test_an_open_dataset_outlives_packing_again(tmp_path: Path, drawn: Path) -> None:
    from yolodata.ultralytics.auto_pack import packed as kept

    data = {"yaml_file": str(drawn), "path": str(drawn.parent)}
    how = {"single_cls": False, "task": "detect", "show": False}
    before = kept(data, "train", 64, Settings(workers=1), **how)
    sorted((drawn.parent / "images" / "train").iterdir())[0].unlink()
    after = kept(data, "train", 64, Settings(workers=1), **how)
    assert (before.path, len(before), len(after)) == (after.path, 10, 9)
    assert np.array_equal(before.image(1), after.image(0))
    assert np.array_equal(before.image(9), after.image(8))


def test_a_resumed_run_goes_on_with_its_epoch_and_settings(tmp_path: Path, drawn: Path) -> None:
    from ultralytics import YOLO

    class Stop(Exception):
        pass

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise Stop

    configured = yolodata.DetectionTrainer.configure(codec="jpeg", folder=str(tmp_path / "cache"))
    model = YOLO(network())
    model.add_callback("on_train_epoch_start", stop)
    values = {**QUIET, "epochs": 3, "project": str(tmp_path / "runs"), "name": "stopped"}
    with pytest.raises(Stop):
        model.train(data=str(drawn), trainer=configured, **values)
    last = tmp_path / "runs" / "stopped" / "weights" / "last.pt"
    resumed = YOLO(last)
    epochs: list[int] = []
    resumed.add_callback(
        "on_train_batch_start",
        lambda trainer: epochs.append(trainer.train_loader.state_dict()["epoch"]),
    )
    resumed.train(trainer=yolodata.DetectionTrainer, resume=True)
    assert resumed.trainer.settings.codec == "jpeg"
    assert resumed.trainer.train_loader.dataset.subset.shards.meta.codec == "jpeg"
    assert epochs[0] == 1  # the epoch that was interrupted, not the stream from its beginning
    assert max(epochs) <= 3


def test_validation_gives_upstreams_figures(tmp_path: Path, drawn: Path) -> None:
    """The same weights, to the last digit, through both loaders."""
    from ultralytics import YOLO

    trained, _ = train(tmp_path, drawn, epochs=1)
    weights = str(trained.last)
    shards = trained.test_loader.dataset.subset.shards.path
    results = []
    for loader in (yolodata.ValidationLoader(shards, 8, imgsz=64), None):
        model = YOLO(weights)
        validator_args = {"data": str(drawn), "imgsz": 64, "batch": 8, "rect": True, **{
            k: QUIET[k] for k in ("device", "plots", "verbose", "workers")
        }}  # fmt: skip
        validator = model._smart_load("validator")(
            dataloader=loader,
            args={**model.overrides, **validator_args, "mode": "val", "conf": 1e-4},
        )
        results.append(validator(model=model.model))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"rect": True}, "rect")],
)
def test_what_ours_cannot_do_goes_to_upstreams_loader(
    tmp_path: Path, settings: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yolodata.ultralytics import trainer as module

    warnings: list[str] = []
    monkeypatch.setattr(module.LOGGER, "warning", warnings.append)
    yaml = draw_dataset(tmp_path / "set", {"train": 6, "val": 3})
    for file in (tmp_path / "set" / "labels").rglob("*.txt"):
        rows = [row.split() for row in file.read_text().splitlines()]
        triangles = [f"{row[0]} 0.1 0.1 0.9 0.2 0.5 0.8" for row in rows]
        file.write_text("\n".join(triangles))
    trainer, _ = _train_without_notes(tmp_path, yaml, settings)
    assert not isinstance(trainer.train_loader, yolodata.Loader)
    assert isinstance(trainer.test_loader, yolodata.ValidationLoader)
    assert sum(reason in str(line) and "yolodata" in str(line) for line in warnings) == 1


def _train_without_notes(tmp_path: Path, data: Path, settings: dict[str, Any]) -> Any:
    from ultralytics import YOLO

    model = YOLO(network())
    values = {**QUIET, "epochs": 1, "project": str(tmp_path / "runs"), **settings}
    model.train(data=str(data), trainer=yolodata.DetectionTrainer, **values)
    return model.trainer, None


def test_limits_are_named() -> None:
    from ultralytics.cfg import get_cfg

    def reason(data: dict[str, Any], **args: Any) -> str | None:
        return why_not(get_cfg(overrides=args), data)

    assert reason({}) is None
    assert reason({}, copy_paste=0.5) is None
    for text, found in (
        ("channels", reason({"channels": 4})),
        ("rect", reason({}, rect=True)),
    ):
        assert found is not None
        assert text in found


def test_settings_reach_processes_that_upstream_starts(tmp_path: Path) -> None:
    """Upstream pickles type(trainer) and its arguments into a file that its processes run."""
    import pickle

    cloudpickle = pytest.importorskip("cloudpickle")
    configured = yolodata.DetectionTrainer.configure(codec="jpeg", threads=3)
    buffer = io.BytesIO()
    cloudpickle.dump({"trainer": configured}, buffer)
    again = pickle.loads(buffer.getvalue())["trainer"]
    assert again.settings == Settings(codec="jpeg", threads=3)
    assert issubclass(again, yolodata.DetectionTrainer)
    trainer = yolodata.DetectionTrainer(
        overrides={
            "model": network(),
            "data": str(draw_dataset(tmp_path / "set", {"train": 3, "val": 2})),
            "yolodata": {"threads": 2},
            "device": "cpu",
            "project": str(tmp_path / "runs"),
        }
    )
    assert type(trainer).settings.threads == 2
    assert not hasattr(trainer.args, "yolodata")


@pytest.mark.parametrize(
    "wrong",
    [{"codec": "png"}, {"threads": 0}, {"prefetch": None}, {"max_unreadable": 2}, {"cores": 3},
     {"hw_decoder_load": 2}, {"check": "yes"}, {"cache": "ram"}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        yolodata.DetectionTrainer.configure(**wrong)


def test_command_line(tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upstream, ours = read_arguments(
        ["model=a.yaml", "epochs=3", "yolodata.codec=jpeg", "amp=False"], "train"
    )
    assert upstream == {"model": "a.yaml", "epochs": 3, "amp": False}
    assert ours == {"codec": "jpeg"}
    assert main(["train", "epochs"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert main(["train", f"data={drawn}"]) == 2
    assert "model" in capsys.readouterr().err
    arguments = [f"{name}={value}" for name, value in QUIET.items()]
    arguments += [f"model={network()}", f"data={drawn}", "epochs=1", f"project={tmp_path / 'runs'}"]
    assert main(["train", *arguments, f"yolodata.folder={tmp_path / 'cache'}"]) == 0
    assert list((tmp_path / "cache").rglob("dataset.json"))


def test_auto_batch_counts_our_labels(tmp_path: Path, drawn: Path) -> None:
    trainer, _ = train(tmp_path, drawn, epochs=1)
    counts = [len(label["cls"]) for label in trainer.train_loader.dataset.labels]
    asked: dict[str, int] = {}
    base = type(trainer).__mro__[-2]
    original = base.auto_batch
    try:
        base.auto_batch = lambda self, max_num_obj=0, dataset_size=0: asked.update(
            objects=max_num_obj, images=dataset_size
        )
        trainer.auto_batch()
    finally:
        base.auto_batch = original
    assert asked == {"objects": 4 * max(counts), "images": len(counts)}
    assert np.max(counts) > 0


def loss_of(trainer: Any) -> list[float]:
    return [float(value) for value in trainer.tloss.values()]


class _OnATwin(yolodata.DetectionTrainer):
    """Trains on the CPU from a loader that believes it is on a device."""

    output = "uint8"

    def _delivery(self) -> DeviceOptions:
        return DeviceOptions("cuda", self.settings.cache, output=self.output)


class _OnATwinInHalf(_OnATwin):
    output = "float16"

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = super().preprocess_batch(batch)
        assert done["img"].dtype == torch.float16
        done["img"] = done["img"].float()  # there is no autocast here that would
        return done


@pytest.mark.parametrize("cache", ["device"])  # tests/test_device.py has the others' streams
def test_training_on_a_device_is_training_on_the_cpu(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    from twin import stand_in

    stand_in(monkeypatch)
    losses = []
    for trainer in (yolodata.DetectionTrainer, _OnATwin):
        configured = trainer.configure(cache=cache)
        done, seen = train(tmp_path, drawn, name=trainer.__name__, trainer=configured, seed=3)
        assert len(seen) == 2
        losses.append(loss_of(done))
    assert losses[0] == losses[1]
    assert done.train_loader.cache == cache
    done, _ = train(tmp_path, drawn, "half", trainer=_OnATwinInHalf.configure(cache=cache), seed=3)
    assert loss_of(done) == pytest.approx(losses[0], rel=0.02)


def copies(layer: torch.nn.Module, picture: torch.Tensor) -> list[str]:
    """Copies that a layer makes of its input first, in another type or order of memory."""
    from torch.profiler import ProfilerActivity, profile

    layer(picture)  # weights that autocast converts are kept
    seen = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if picture.is_cuda else [])]
    with profile(activities=seen, record_shapes=True) as profiled:
        layer(picture)
    shape = list(picture.shape)
    return [
        event.name
        for event in profiled.events()
        if (event.name == "aten::copy_" and event.input_shapes[0] == shape)
        or "nchwToNhwc" in event.name  # cuDNN's own
    ]


@pytest.mark.parametrize(("cache", "channels_last"), [("device", True), ("none", False)])
def test_batches_come_as_the_first_convolution_wants_them(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, cache: str, channels_last: bool
) -> None:
    """Ultralytics' `preprocess_batch` and the convolution find nothing left to convert."""
    from twin import stand_in

    stand_in(monkeypatch)
    order = torch.channels_last if channels_last else torch.contiguous_format
    taken = []

    class AsOnCuda(yolodata.DetectionTrainer):
        def _delivery(self) -> DeviceOptions:
            self.model.to(memory_format=order)  # upstream's, where the device is CUDA
            here, self.device, self.amp = self.device, torch.device("cuda"), True
            delivery = super()._delivery()
            self.device, self.amp = here, False
            return delivery

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            picture = batch["img"]
            done = super().preprocess_batch(batch)
            assert done["img"] is picture
            assert picture.dtype == torch.float16
            assert picture.is_contiguous(memory_format=order)
            layer = next(m for m in self.model.modules() if isinstance(m, torch.nn.Conv2d))
            assert copies(layer, picture.float()) == []
            if channels_last:  # negative control: without it, every step would convert them
                assert copies(layer, picture.float().contiguous())
            taken.append(picture)
            return {**done, "img": picture.float()}  # there is no autocast here that would

    train(tmp_path, drawn, trainer=AsOnCuda.configure(cache=cache), epochs=1)
    assert taken


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_trains_on_a_gpu(tmp_path: Path, drawn: Path, cache: str) -> None:
    configured = yolodata.DetectionTrainer.configure(cache=cache)
    done, _ = train(tmp_path, drawn, trainer=configured, device=0, amp="bf16", workers=2)
    assert done.train_loader.cache == cache
    assert np.isfinite(loss_of(done)).all()
