"""Counts the instructions a pixel of the render kernel, from its machine code, without a GPU.

    python benchmarks/kernel_instructions.py                 # 1 if a limit is passed
    python benchmarks/kernel_instructions.py --arch 90 --profile

The kernel is compiled for each architecture, and what nvdisasm makes of it runs in an interpreter
(`sass.py`): blocks drawn at random from pictures of planned recipes, of images like COCO's. So the
kinds of blocks, the branches that warps take and the turns of loops are those of real recipes; and
the pixels must be the CPU renderer's to the bit. Instructions a pixel are what warps executed,
times the 32 threads of a warp, by pixels.

Note [how near]. On an H200, ncu counted 280.8 million warp instructions for 64 default pictures of
640 x 640 with the kernel as it was in November 2026 (343 a pixel), and 224.5 million (274) with a
prototype that had a path for windows. Of the same two kernels this script said 345.6 and 278.0, 1 %
more, from other pictures. What a GPU does besides (waiting, memory) it does not know. `--banks`
adds the cycles that shared memory takes for the 32 pixels of a warp, in a model of its banks that
no GPU has confirmed: a multiprocessor that issues four instructions a cycle needs a quarter of the
instructions in cycles, and shared memory must not take more.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu.kit import sections
from sass import WARP, Machine, parse
from sass_arithmetic import bfloat16, float16

from yolodata import AugmentConfig, Recipe, _native
from yolodata.bench import drawing
from yolodata.dali.compilers import NVCC_FLAGS, Cuda

ROOT = Path(__file__).resolve().parent.parent
SIDE = 640
RECIPES: dict[str, dict[str, Any]] = {"default": {}, "rotated": {"degrees": 10.0}}
# Instructions a pixel that no architecture may pass.
LIMITS = {"default": 160.0, "rotated": 200.0}
SPILLED = 0  # bytes, stored and loaded
ARCHS = (80, 90, 100)
PARAMETERS = {80: 0x160, 90: 0x210, 100: 0x380}  # where a kernel's arguments are in bank 0
# What bytes are written as.
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "uint8": lambda byte: byte,
    "float16": lambda byte: float16(byte.astype(np.float32) / np.float32(255)),
    "bfloat16": lambda byte: bfloat16(byte.astype(np.float32) / np.float32(255)),
}
KERNELS = {
    f"{name}, {order}": f"LNS_11PixelFormatE{number}ELb{last}E"
    for number, name in enumerate(NUMBERS)
    for last, order in enumerate(("planes", "triples"))
}


def tool(name: str) -> str:
    """A disassembler's path: on PATH, in NVIDIA's package for it, or in triton."""
    if found := shutil.which(name):
        return found
    for package, pattern in (("nvidia", f"**/bin/{name}"), ("triton", f"backends/*/bin/{name}")):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).glob(pattern)):
                if not os.access(path, os.X_OK):  # as wheels may leave it
                    path.chmod(path.stat().st_mode | 0o111)
                return str(path)
    raise SystemExit(
        f"{name} was not found on PATH, in the nvidia-* packages or in triton; install it with "
        f"`pip install nvidia-cuda-{name}`"
    )


@dataclass(frozen=True)
class Shape:
    """What a block of threads makes, as kernel_body.h says."""

    width: int
    height: int
    threads: int

    @classmethod
    def of(cls, source: Path) -> Shape:
        """Of the kernel in a folder csrc."""
        text = (source / "render/kernel_body.h").read_text()
        width, strip, strips, threads = (
            int(re.search(rf"\b{name} = (\d+)", text)[1])
            for name in ("kBlockWidth", "kStripHeight", "kStrips", "kBlockThreads")
        )
        return cls(width, strip * strips, threads)


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture, compiled."""

    name: str  # as the linker knows it
    output: str  # one of KERNELS
    arch: int
    cubin: bytes
    listing: str
    registers: int
    spilled: int  # bytes, stored and loaded
    shared: int  # bytes


def compile_kernels(arch: int, source: Path) -> list[Kernel]:
    """All kernels of cuda.cu.

    Raises:
        SystemExit: there is no compiler, or it fails.
    """
    cuda = Cuda.find()
    if cuda is None:
        raise SystemExit("no CUDA compiler was found; install a CUDA toolkit or nvidia-cuda-nvcc")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        command = [str(cuda.nvcc), *NVCC_FLAGS, *cuda.flags, f"-I{source}", f"-arch=sm_{arch}"]
        command += ["-Xptxas", "-v", "-cubin", "-o", str(cubin), str(source / "render/cuda.cu")]
        said = run(command)
        listing = run([tool("nvdisasm"), "-c", str(cubin)])
        data = cubin.read_bytes()
    kernels = []
    for part in said.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        output = next(output for output, piece in KERNELS.items() if piece in name)
        registers, stored, loaded, shared = (
            int(re.search(pattern, part)[1])
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores",
                            r"(\d+) bytes spill loads", r"(\d+) bytes smem")
        )  # fmt: skip
        spilled = stored + loaded
        kernels.append(Kernel(name, output, arch, data, listing, registers, spilled, shared))
    return sorted(kernels, key=lambda kernel: list(KERNELS).index(kernel.output))


def run(command: list[str]) -> str:
    """What a program prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"this command failed:\n{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Scene:
    """Pictures of one kind of recipe, with the memory that a kernel reads and writes."""

    def __init__(self, kind: str, count: int) -> None:
        import cv2

        photos = drawing.photographs()
        plans = drawing.sketch(count, seed=0)
        files = (drawing.draw(plan, photos, 0, i) for i, plan in enumerate(plans))
        images = {
            i: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            for i, file in enumerate(files)
        }
        heights, widths = np.array([i.shape[:2] for i in images.values()], np.uint32).T.copy()
        none = np.zeros(count + 1, np.uint64)
        index = _native.LabelTable(
            heights, widths, none, np.zeros(0, np.float32), np.zeros((0, 4), np.float32),
            np.zeros(1, np.uint64), np.zeros((0, 2), np.float32), outline_points=100,
        )  # fmt: skip
        config = AugmentConfig(imgsz=SIDE, **RECIPES[kind]).to_native()
        self.recipes = [
            Recipe.from_dict(_native.plan(index, config, 0, 0, p).to_dict()) for p in range(count)
        ]
        # One piece of memory: images, tasks, pictures.
        pixels = [np.ascontiguousarray(image).reshape(-1) for image in images.values()]
        tasks = count * _native.RENDER_TASK_BYTES
        begins = np.cumsum([0, *(-(-p.size // 256) * 256 for p in pixels), tasks])
        self.tasks, self.out = int(begins[-2]), int(begins[-1] + 255) // 256 * 256
        raw = np.zeros(self.out + count * 3 * SIDE * SIDE * 2 + 256, np.uint8)
        self.memory = raw[-raw.ctypes.data % 256 :]
        for begin, flat in zip(begins, pixels, strict=False):
            self.memory[begin : begin + flat.size] = flat
        self.images = {
            i: self.memory[begin : begin + image.size].reshape(image.shape)
            for (i, image), begin in zip(images.items(), begins, strict=False)
        }
        engine = _native.Engine(1)
        pointers = np.array([image.ctypes.data for image in self.images.values()], np.uint64)
        tasks_there = self.memory[self.tasks : self.tasks + tasks]
        engine.submit_render(self.recipes, np.arange(count), pointers, tasks_there).wait()
        engine.close()
        self.wanted: dict[int, Any] = {}

    def want(self, picture: int) -> Any:
        """The picture that the CPU makes: uint8 (3, height, width)."""
        if picture not in self.wanted:
            self.wanted[picture] = _native.render(self.recipes[picture], self.images)
        return self.wanted[picture]


def constants_of(kernel: Kernel, scene: Scene) -> dict[int, bytes]:
    """Banks of constant memory: the launch, and what the compiler put there."""
    launch = np.zeros(24, np.uint8)  # see Launch in kernel_body.h
    address = scene.memory.ctypes.data
    launch[:8].view(np.uint64)[:] = address + scene.tasks
    launch[8:16].view(np.int32)[:] = SIDE
    launch[16:24].view(np.uint64)[:] = address + scene.out
    bank = bytearray(0x1000)
    first = PARAMETERS[kernel.arch]
    bank[first : first + launch.size] = launch.tobytes()
    banks = {0: bytes(bank)}
    for name, _, first, nbytes in sections(kernel.cubin):
        found = re.fullmatch(r"\.nv\.constant([1-9]\d*)(?:\.(.*))?", name)
        if found and found[2] in (None, kernel.name):
            banks[int(found[1])] = kernel.cubin[first : first + nbytes] + bytes(-nbytes % 8)
    return banks


def count(
    kernel: Kernel, shape: Shape, scene: Scene, blocks: int, banks: bool = False
) -> tuple[float, Machine]:
    """Instructions a pixel of a kernel in blocks of a scene: as many of each picture.

    `banks`: see `Machine`.

    Raises:
        SystemExit: a pixel is not the CPU renderer's.
    """
    across, down = SIDE // shape.width, SIDE // shape.height
    pictures = len(scene.recipes)
    each = -(-blocks // pictures)
    blocks = each * pictures
    rng = np.random.default_rng(0)
    rest = np.concatenate([rng.choice(across * down, each, replace=False) for _ in range(pictures)])
    places = np.stack([rest % across, rest // across, np.repeat(np.arange(pictures), each)], 1)
    code, labels = parse(kernel.listing, kernel.name)
    constants = constants_of(kernel, scene)
    machine = Machine(
        code, labels, constants, scene.memory, kernel.shared, shape.threads, places, banks
    )
    scene.memory[scene.out :] = 77
    executed = machine.run()
    number = NUMBERS[kernel.output.split(",")[0]]
    made = scene.memory[scene.out :].view(number(np.zeros(1, np.uint8)).dtype)
    made = made[: pictures * 3 * SIDE * SIDE]
    if kernel.output.endswith("triples"):
        made = made.reshape(pictures, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    made = made.reshape(pictures, 3, SIDE, SIDE)
    for x, y, picture in places:
        top, left = y * shape.height, x * shape.width
        part = np.s_[:, top : top + shape.height, left : left + shape.width]
        if not np.array_equal(made[picture][part], number(scene.want(picture)[part])):
            raise SystemExit(
                f"sm_{kernel.arch}, {kernel.output}: the block at {left}, {top} of picture "
                f"{picture} is not the CPU renderer's"
            )
    return executed * WARP / (blocks * shape.width * shape.height), machine


def main() -> int:
    """1 if a kernel passes a limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHS, choices=ARCHS)
    parser.add_argument("--blocks", type=int, default=128, help="that run, of each kind of recipe")
    parser.add_argument("--output", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--profile", action="store_true", help="how often each instruction ran")
    parser.add_argument("--banks", action="store_true", help="cycles of shared memory, too")
    parser.add_argument("--source", type=Path, default=ROOT / "csrc", help="the folder csrc")
    args = parser.parse_args()
    shape = Shape.of(args.source)
    scenes = {kind: Scene(kind, 64) for kind in RECIPES}
    failed = False
    for arch in args.arch:
        for kernel in compile_kernels(arch, args.source):
            if kernel.output not in args.output:
                continue
            failed |= kernel.spilled > SPILLED
            line = (
                f"sm_{arch}, {kernel.output}: {kernel.registers} registers, {kernel.spilled} bytes "
                f"spilled, {kernel.shared:,} bytes shared"
            )
            for kind, scene in scenes.items():
                found, machine = count(kernel, shape, scene, args.blocks, args.banks)
                failed |= found > LIMITS[kind]
                line += f", {kind} {found:.1f}"
                pixels = args.blocks * shape.width * shape.height
                if args.banks:
                    line += f" ({machine.shared_cycles * WARP / pixels:.1f} cycles)"
                if args.profile:
                    for address, which in machine.code.items():
                        times = machine.executed[address] * WARP / pixels
                        print(f"{address:6x} {times:8.4f} {which.text}")
            print(line, flush=True)
    if failed:
        print(f"a limit is passed: instructions a pixel {LIMITS}, bytes spilled {SPILLED}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
