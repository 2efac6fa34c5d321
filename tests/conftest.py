"""What every test may ask for."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

GPU = Path("/dev/nvidiactl")


def gpu_problem() -> str | None:
    """Why no test can run on a GPU here; None when it can."""
    import torch

    from yolodata import _native

    if not torch.cuda.is_available():
        return "no CUDA device"
    if _native.cuda_build() == "none":
        return "yolodata was built without CUDA"
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Returns how many processes run the tests; 0 is this one.

    It is one beside a GPU, whose memory some tests measure. Elsewhere it is one more than cores: a
    third of the time a test waits for something other than a processor.
    """
    return 0 if GPU.exists() else min(len(os.sched_getaffinity(0)), 4) + 1


def pytest_configure() -> None:
    """Hides Albumentations: where Ultralytics finds it, it changes pictures with it, and we too.

    Hides MLflow, too, which Ultralytics would import, and log nothing to in tests. What trainers of
    tests pack is not listed in the user's cache.
    """
    cache = Path(tempfile.gettempdir()) / f"yolodata-tests-{os.getuid()}"
    os.environ.setdefault("YOLODATA_CACHE", str(cache))
    sys.modules["albumentations"] = None  # type: ignore[assignment]
    sys.modules["mlflow"] = None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def _albumentations() -> ModuleType:
    del sys.modules["albumentations"]
    try:
        found: ModuleType = pytest.importorskip("albumentations")
        return found
    finally:
        sys.modules["albumentations"] = None  # type: ignore[assignment]


@pytest.fixture
def albumentations(_albumentations: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, which is hidden from tests that do not ask for it."""
    monkeypatch.setitem(sys.modules, "albumentations", _albumentations)
    return _albumentations


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    if os.environ.get("YOLODATA_LONG_TESTS") != "1":
        reason = "takes minutes: YOLODATA_LONG_TESTS=1, as in .ci/weekly"
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason=reason))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    problem = gpu_problem() if marked else None
    if problem is None:
        return
    for item in marked:
        if os.environ.get("YOLODATA_REQUIRE_GPU") == "1":
            item.add_marker(pytest.mark.usefixtures("require_gpu"))
        else:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {problem}"))


@pytest.fixture
def require_gpu() -> None:
    pytest.fail(f"YOLODATA_REQUIRE_GPU=1, but {gpu_problem()}")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Photographs with labels, where they are at hand; tests that need them are skipped without."""
    named = os.environ.get("YOLODATA_TEST_DATA")
    candidates = [Path(named)] if named else []
    candidates.append(Path(__file__).resolve().parents[2] / "shared" / "data")
    for path in candidates:
        if (path / "coco-mini" / "data.yaml").is_file():
            return path
    if named:
        pytest.fail(f"YOLODATA_TEST_DATA={named} has no coco-mini/data.yaml")
    pytest.skip("no real images at hand (set YOLODATA_TEST_DATA)")


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of metrics are upstream's own, and take longer than a short training."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
