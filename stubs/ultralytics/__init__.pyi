from typing import Any

__version__: str

YOLO: Any
RTDETR: Any
