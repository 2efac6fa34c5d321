"""Trains with Lightning, by a LightningDataModule, and resumes at the exact sample.

pip install lightning
python examples/lightning_datamodule.py --max-steps 8
python examples/lightning_datamodule.py --resume

Lightning calls the loader's set_epoch itself, and keeps its state in the checkpoint. yolodata does
not depend on Lightning, and its tests do not either: the one of this example is skipped without it.

This file is not called lightning.py, because Python would import it in Lightning's place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from example_data import argument_parser, packed
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_model import TinyModel, loss_of

import yolodata


class ShardsDataModule(lightning.LightningDataModule):
    """Batches for training and validation from a folder of shards.

    Args:
        shards: a folder with the splits "train" and "val".
        batch_size: pictures per batch and rank.
    """

    def __init__(self, shards: Path, batch_size: int) -> None:
        super().__init__()
        self.shards, self.batch_size = shards, batch_size

    def ranks(self) -> yolodata.Ranks:
        """Returns this process among those that Lightning started."""
        return yolodata.Ranks(self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> yolodata.Loader:
        """Returns augmented batches."""
        return yolodata.Loader(self.shards, self.batch_size, seed=0, ranks=self.ranks())

    def val_dataloader(self) -> yolodata.ValidationLoader:
        """Returns every image once, unaugmented."""
        return yolodata.ValidationLoader(self.shards, self.batch_size, ranks=self.ranks())


class TinyModule(lightning.LightningModule):
    """The examples' model."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = TinyModel(classes)

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        """Returns the loss."""
        return loss_of(self.model, batch)

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Logs the loss."""
        loss = loss_of(self.model, batch)
        self.log("val_loss", loss, batch_size=len(batch["img"]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns what makes the steps."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main(arguments: list[str] | None = None) -> lightning.Trainer:
    """Trains; returns Lightning's trainer."""
    parser = argument_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop early")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    args = parser.parse_args(arguments)

    lightning.seed_everything(0)
    shards = packed(args.data, args.folder)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=args.epochs,
        max_steps=args.max_steps,
        default_root_dir=args.folder,
        logger=False,
        callbacks=[
            ModelCheckpoint(
                args.folder, "lightning", every_n_train_steps=1, enable_version_counter=False
            )
        ],
    )
    model = TinyModule(len(yolodata.open_shards(shards, split="train").meta.names))
    checkpoint = args.folder / "lightning.ckpt" if args.resume else None
    trainer.fit(model, ShardsDataModule(shards, batch_size=4), ckpt_path=checkpoint)
    return trainer


if __name__ == "__main__":
    main()
