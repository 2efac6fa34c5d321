from ultralytics.engine.trainer import BaseTrainer
from ultralytics.engine.validator import BaseValidator

class DetectionTrainer(BaseTrainer):
    def auto_batch(self) -> int: ...  # type: ignore[override]

class DetectionValidator(BaseValidator): ...
