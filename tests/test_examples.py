"""The examples run, and do what they say."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_data import IMAGES, SIDE, draw, packed
from PIL import Image
from training import TINY

import yolodata

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples draw and pack, once for all tests."""
    return tmp_path_factory.mktemp("examples")


def assert_equal_weights(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_readme_names_every_script() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert [file.name for file in EXAMPLES.glob("*.py") if file.name not in page] == []


def test_data_of_every_kind_is_taken(tmp_path: Path) -> None:
    shards = packed(None, tmp_path)
    assert packed(str(shards), tmp_path / "new") == shards
    assert (tmp_path / "new").is_dir()
    own = packed(str(draw(tmp_path / "own")), tmp_path, codec="jpeg", imgsz=96)
    for path, codec, imgsz in ((shards, "raw", SIDE), (own, "jpeg", 96)):
        for split, images in IMAGES.items():
            with yolodata.open_shards(path, split=split) as dataset:
                found = (len(dataset), dataset.meta.codec, dataset.meta.imgsz)
                assert found == (images, codec, imgsz)


def test_a_plain_loop_resumes_at_the_exact_sample(folder: Path) -> None:
    """Within an epoch, and at its end."""
    import plain_pytorch

    usual = ["--folder", str(folder), "--epochs", "2"]
    wanted = torch.load(plain_pytorch.main(usual))
    for stop_after in ("4", "6"):
        stopped = torch.load(plain_pytorch.main([*usual, "--stop-after", stop_after]))
        assert stopped["loader"] != wanted["loader"]
        resumed = torch.load(plain_pytorch.main([*usual, "--resume"]))
        assert resumed["loader"] == wanted["loader"]
        assert_equal_weights(resumed["model"], wanted["model"])


def test_loaders_have_what_lightning_reads(folder: Path) -> None:
    """Checked where Lightning is not installed, too."""
    shards = packed(None, folder)
    with yolodata.Loader(shards, 4) as loader, yolodata.ValidationLoader(shards, 4) as validation:
        assert loader.batch_sampler is validation.batch_sampler is None
        loader.sampler.set_epoch(3)
        assert loader.state_dict()["epoch"] == 3


@pytest.mark.parametrize("stop_after", ["4", "6"], ids=["within an epoch", "at its end"])
def test_lightning_resumes_at_the_exact_sample(folder: Path, stop_after: str) -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
    import lightning_datamodule

    usual = ["--folder", str(folder), "--epochs", "2"]
    wanted = lightning_datamodule.main(usual).lightning_module.state_dict()
    stopped = lightning_datamodule.main([*usual, "--max-steps", stop_after])
    assert stopped.global_step == int(stop_after)
    saved = torch.load(folder / "lightning.ckpt")
    assert saved["global_step"] == int(stop_after)
    resumed = lightning_datamodule.main([*usual, "--resume"])
    assert resumed.global_step == 12
    assert_equal_weights(resumed.lightning_module.state_dict(), wanted)


@pytest.mark.parametrize("stop_after", ["4", "6"], ids=["within an epoch", "at its end"])
def test_accelerate_resumes_at_the_exact_sample(folder: Path, stop_after: str) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    import accelerate_loop

    usual = ["--folder", str(folder), "--epochs", "2"]
    wanted = accelerate_loop.main(usual)
    weights = (folder / "accelerate" / "model.safetensors").read_bytes()
    stopped = accelerate_loop.main([*usual, "--stop-after", stop_after])
    assert len(stopped) < len(wanted) == 42
    assert stopped + accelerate_loop.main([*usual, "--resume"]) == wanted
    assert (folder / "accelerate" / "model.safetensors").read_bytes() == weights


def recorded(folder: Path, processes: int) -> list[list[str]]:
    """Returns what each rank saw."""
    files = [folder / f"rank-{rank}-of-{processes}.txt" for rank in range(processes)]
    return [file.read_text().splitlines() for file in files]


def test_ranks_together_get_the_stream_of_one_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[list[str]] = []
    with yolodata.Loader(packed(None, folder), batch_size=4, seed=0) as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            wanted.append(
                [
                    f"{epoch} {hashlib.sha256(picture.numpy()).hexdigest()} {file}"
                    for batch in loader
                    for file, picture in zip(batch["im_file"], batch["img"], strict=True)
                ]
            )
    # Of 21 images, the last step of two ranks takes the epoch's first one again.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [
            *torchrun, "--nproc-per-node", "2", str(EXAMPLES / "ddp.py"),
            "--folder", str(folder), "--record", "--stop-after", "7",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    together = [line for step in zip(*recorded(folder, 2), strict=True) for line in step]
    assert together == [*wanted[0], wanted[0][0], *wanted[1][:4]]
    # The rest in one process, which is this one.
    import ddp

    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    ddp.main(["--folder", str(folder), "--record", "--resume"])
    assert recorded(folder, 1) == [wanted[1][4:]]


def test_ultralytics_trains_on_our_batches(folder: Path) -> None:
    import ultralytics_swap_in

    model = folder / "tiny.yaml"
    model.write_text(TINY)
    small = ["--model", str(model), "--imgsz", "64", "--epochs", "1"]
    trainer = ultralytics_swap_in.main(["--folder", str(folder), *small])
    assert isinstance(trainer.train_loader, yolodata.Loader)
    assert trainer.train_loader.state_dict()["epoch"] == 1  # the first one was used up
    assert len((trainer.save_dir / "results.csv").read_text().splitlines()) == 2


def test_a_dali_graph_makes_our_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nvidia.dali")
    if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
        pytest.skip("needs a C++ compiler")
    import custom_dali_graph

    custom_dali_graph.main(["--folder", str(folder)])
    assert capsys.readouterr().out.count("(4, 3, 160, 160)") == IMAGES["train"] // 4
    shards = yolodata.open_shards(packed(None, folder, codec="jpeg"), split="train")
    # With nothing drawn, a picture is a function of its image.
    still = yolodata.AugmentConfig(
        SIDE, mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0
    )
    wanted = {}
    for position in range(len(shards)):
        recipe = yolodata.plan(still, shards, position=position)
        image = recipe.to_dict()["layers"][0]["tiles"][0]["image"]
        wanted[image] = yolodata.render(recipe, {image: shards.image(image)})
    for number, (pictures, planned) in enumerate(custom_dali_graph.batches(shards, still, 4)):
        for row, picture in enumerate(pictures.numpy()):
            image = number * 4 + row
            np.testing.assert_array_equal(np.rint(picture * 255), wanted[image])
            rows = slice(*shards.object_offset[image : image + 2].tolist())
            np.testing.assert_array_equal(planned.cls[row], shards.cls[rows])


@pytest.mark.parametrize("position", ["0", "10", "20"])
def test_a_replayed_sample_is_the_loaders(folder: Path, position: str) -> None:
    import replay_one_sample

    png = replay_one_sample.main(["--folder", str(folder), "--seed", "7", "--position", position])
    both = np.array(Image.open(png))
    assert both.shape == (SIDE, 2 * SIDE, 3)
    np.testing.assert_array_equal(both[:, :SIDE], both[:, SIDE:])


def test_a_replayed_sample_that_differs_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import replay_one_sample

    render = yolodata.render
    monkeypatch.setattr(yolodata, "render", lambda *given: render(*given) ^ 1)
    with pytest.raises(AssertionError, match="pictures differ"):
        replay_one_sample.main(["--folder", str(folder)])
