"""Checks an installation from the inside, while its image is built: check_install.py VERSION.

It runs as the image's user. The repository it lies in lends the dataset of the examples and the
renderer of the tests, which is slow and plain; the package itself is the installed one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "examples"), str(ROOT / "tests")]


def check(holds: object, message: str) -> None:
    """Ends with a message unless something holds."""
    if not holds:
        sys.exit(f"check_install: {message}")


def versions(expected: str) -> None:
    """The command runs, and is the version that the label will name."""
    said = subprocess.run(["yolodata", "version"], capture_output=True, text=True, check=True)
    check(
        said.stdout.strip() == f"yolodata {expected}" and metadata.version("yolodata") == expected,
        f"VERSION is {expected!r}, but `yolodata version` says {said.stdout.strip()!r}; pass "
        "`--build-arg VERSION=` as in pyproject.toml",
    )


def installation() -> None:
    """The package is the installed one, compiled for CUDA unless told not to, and read-only."""
    import torch

    import yolodata
    from yolodata import _native

    package = Path(yolodata.__file__).resolve().parent
    check(not package.is_relative_to(ROOT), f"yolodata is imported from {package}")
    check(os.getuid() != 0, "the image's user is root")
    check(not os.access(package, os.W_OK), f"the image's user may write to {package}")
    print(f"torch {torch.__version__}, core: {_native.cuda_build() or 'CPU only'}")


def dali_decodes() -> None:
    """DALI can be imported, and decodes a file on the CPU."""
    import cv2
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    picture = np.full((16, 24, 3), 90, np.uint8)
    file = cv2.imencode(".jpg", picture)[1].reshape(-1)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def decode() -> object:
        return fn.decoders.image(fn.external_source(lambda: [file], batch=True))

    pipeline = decode()
    pipeline.build()
    decoded = np.asarray(pipeline.run()[0][0])
    check(np.array_equal(decoded, picture), "DALI decodes a grey JPEG file to something else")


def renders_as_the_reference() -> None:
    """Samples of a small packed dataset have the bytes of the slow renderer."""
    import example_data
    import numpy as np
    import reference

    import yolodata

    with tempfile.TemporaryDirectory() as folder:
        shards = yolodata.open_shards(example_data.packed(None, Path(folder)) / "train")
        config = yolodata.AugmentConfig(imgsz=example_data.SIDE, mixup=1.0, degrees=10.0)
        for position in range(3):
            recipe = yolodata.plan(config, shards, seed=0, epoch=0, position=position)
            values = recipe.to_dict()
            used = {tile["image"] for layer in values["layers"] for tile in layer["tiles"]}
            images = {number: shards.image(number) for number in used}
            rendered = yolodata.render(recipe, images)
            check(
                np.array_equal(rendered, reference.render(values, images)),
                f"sample {position} differs from the reference",
            )
            check(rendered.std() > 1, f"sample {position} is of one colour")


def main(expected: str) -> None:
    """Runs all checks."""
    versions(expected)
    installation()
    dali_decodes()
    renders_as_the_reference()
    print(f"check_install: yolodata {expected} works")


if __name__ == "__main__":
    check(len(sys.argv) == 2 and sys.argv[1], "give the VERSION; `--build-arg VERSION=`")
    main(sys.argv[1])
