from collections.abc import Callable
from typing import Any

default_callbacks: dict[str, list[Callable[[Any], None]]]
