"""Recipes taken apart into numbers with a meaning: zoom, rotation, mosaic centre, partners, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Recipe = dict[str, Any]
"""A recipe as plain data, of our planner or as upstream's draws were recorded."""

_BINS = 64  # images are counted in so many groups at most


@dataclass
class Quantities:
    """Recipes taken apart: one value a recipe of each quantity, NaN where it has none.

    Attributes:
        numbers: compared by their values.
        categories: compared by how often each value occurs.
    """

    numbers: dict[str, Float64]
    categories: dict[str, Float64]

    @classmethod
    def of(cls, recipes: Sequence[Recipe], images: int) -> Quantities:
        """Takes N recipes apart into columns (N,), for a dataset of so many images."""
        numbers: dict[str, Float64] = {}
        categories: dict[str, Float64] = {}
        layers = {"": [recipe["layers"][0] for recipe in recipes]}
        for part in ("mixup", "cutmix"):
            layers[f"{part}: "] = [
                recipe["layers"][recipe[part]["layer"]] if recipe[part] else None
                for recipe in recipes
            ]
        pasted = [_pasted(recipe) for recipe in recipes]
        layers["pasted: "] = [
            recipe["layers"][source] if source else None
            for recipe, (source, _) in zip(recipes, pasted, strict=True)
        ]
        for part, of_part in layers.items():
            there = np.array([layer is not None for layer in of_part])
            found = _layers([layer for layer in of_part if layer is not None], images)
            for columns, values in zip((numbers, categories), found, strict=True):
                for name, column in values.items():
                    columns[part + name] = np.full(len(recipes), np.nan)
                    columns[part + name][there] = column
        for name in ("flipud", "fliplr", "bgr"):
            categories[name] = _column(recipes, lambda recipe, name=name: recipe[name])
        for name in ("mixup", "cutmix"):
            categories[name] = _column(recipes, lambda recipe, name=name: recipe[name] is not None)
        categories["pasted objects"] = np.array([count for _, count in pasted], np.float64)
        for i, name in enumerate(("hue", "saturation", "value")):
            numbers[name] = _column(
                recipes, lambda recipe, i=i: recipe["hsv"][i] if recipe["hsv"] else np.nan
            )
        numbers["mixup ratio"] = _column(
            recipes, lambda recipe: recipe["mixup"]["ratio"] if recipe["mixup"] else np.nan
        )
        numbers |= _cutmix_areas(recipes)
        return cls(numbers, categories)


def _column(recipes: Sequence[Recipe], value: Any) -> Float64:
    return np.array([value(recipe) for recipe in recipes], np.float64)


def _pasted(recipe: Recipe) -> tuple[int, int]:
    """The layer that is pasted from onto the first one (0: itself), and how many objects."""
    for onto, source, count in recipe.get("pastes", ()):  # as upstream's are recorded
        if onto == 0:
            return source, count
    paste = recipe["layers"][0].get("paste")  # as ours are planned
    return (paste["layer"], len(paste["objects"])) if paste else (0, 0)


def _cutmix_areas(recipes: Sequence[Recipe]) -> dict[str, Float64]:
    """Corners as shares of the picture, and the share of it that is replaced."""
    nothing = (np.nan,) * 4
    areas = np.array([r["cutmix"]["area"] if r["cutmix"] else nothing for r in recipes])
    height, width = recipes[0]["size"]
    x1, y1, x2, y2 = (areas / (width, height, width, height)).T
    return {
        "cutmix left": x1, "cutmix top": y1, "cutmix right": x2, "cutmix bottom": y2,
        "cutmix area": (x2 - x1) * (y2 - y1),
    }  # fmt: skip


def _layers(
    layers: Sequence[dict[str, Any]], images: int
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Numbers and categories of layers: geometry, mosaic, and which images."""
    if not layers:
        return {}, {}
    tiles = [layer["tiles"] for layer in layers]
    four = np.array([len(of_layer) == 4 for of_layer in tiles])
    numbers = _geometry(layers)
    for axis, name in ((0, "x2"), (1, "y2")):
        centre = np.full(len(layers), np.nan)
        sides = [layer["canvas"][1 - axis] for layer in layers]
        corner = [of_layer[0][name] for of_layer in tiles]
        centre[four] = (np.array(corner) / sides)[four]
        numbers[f"mosaic centre {'xy'[axis]}"] = centre
    categories = {"mosaic": np.array([len(of_layer) > 1 for of_layer in tiles], np.float64)}
    bins = min(images, _BINS)
    for i in range(max(map(len, tiles))):
        numbered = [of_layer[i]["image"] if i < len(of_layer) else np.nan for of_layer in tiles]
        name = f"partner {i}" if i else "image"
        categories[name] = np.floor(np.array(numbered, np.float64) * bins / images)
    different = [len({tile["image"] for tile in of_layer}) for of_layer in tiles]
    categories["different images"] = np.array(different, np.float64)
    return numbers, categories


def _geometry(layers: Sequence[dict[str, Any]]) -> dict[str, Float64]:
    """What the matrices were composed of: shift · shear · rotation with zoom · tilt · centre.

    Numbers are rounded to what single precision tells of them, so that both sides' rounding is
    not compared.
    """
    matrix = np.array([layer["matrix"] for layer in layers], np.float64).reshape(-1, 3, 3)
    height, width = np.array([layer["canvas"] for layer in layers], np.float64).T
    zoom = np.array([layer["scale"] for layer in layers], np.float64)
    eye = np.broadcast_to(np.eye(3), matrix.shape)
    centre = eye.copy()
    centre[:, 0, 2], centre[:, 1, 2] = width / 2, height / 2
    tilted = matrix @ centre
    tilt = eye.copy()
    tilt[:, 2, :2] = -tilted[:, 2, :2]
    plain = tilted @ tilt
    # As complex numbers, the rows are w (1 + i tan x) and, turned back, w (1 - i tan y), where
    # w = zoom · exp(i rotation) and x, y are the angles of shear.
    first = plain[:, 0, 0] + 1j * plain[:, 0, 1]
    second = plain[:, 1, 1] - 1j * plain[:, 1, 0]
    x, y = (
        np.arctan(np.sqrt(np.maximum(np.abs(row) ** 2 / zoom**2 - 1, 0))) for row in (first, second)
    )
    both = np.angle(first / second)
    signs = np.array([(a, b) for a in (1, -1) for b in (1, -1)])
    errors = np.abs(np.outer(x, signs[:, 0]) + np.outer(y, signs[:, 1]) - both[:, None])
    x, y = signs[errors.argmin(1)].T * (x, y)
    area = np.abs(np.linalg.det(plain[:, :2, :2]))
    return {
        "zoom": zoom,
        "zoom of the matrix": np.sqrt(area / (1 - np.tan(x) * np.tan(y))).round(3),
        "rotation": np.degrees(np.angle(first * np.exp(-1j * x))).round(1),
        "shear x": np.degrees(x).round(1),
        "shear y": np.degrees(y).round(1),
        "perspective x": tilted[:, 2, 0],
        "perspective y": tilted[:, 2, 1],
        "shift x": plain[:, 0, 2].round(2),
        "shift y": plain[:, 1, 2].round(2),
    }
