from typing import Any

def check_imgsz(
    imgsz: Any, stride: int = 32, min_dim: int = 1, max_dim: int = 2, floor: int = 0
) -> int | list[int]: ...
def check_yaml(
    file: str, suffix: tuple[str, ...] = (".yaml", ".yml"), hard: bool = True
) -> str: ...
