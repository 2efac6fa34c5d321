"""Trains in several processes, and resumes under another number of them.

torchrun --nproc-per-node 2 examples/ddp.py --stop-after 3
torchrun --nproc-per-node 1 examples/ddp.py --resume

In every step, the batches of all ranks together are the batch that one process would get. Every
rank takes as many steps, with as many pictures in each.

On GPUs, use the backend "nccl" and give f"cuda:{local_rank}" to the loader and the model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.distributed as dist
from example_data import argument_parser, packed
from tiny_model import TinyModel, loss_of
from torch.nn.parallel import DistributedDataParallel

import yolodata

BATCH = 4  # pictures of all ranks together


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: yolodata.Loader,
    epochs: int,
    stop_after: int | None,
) -> list[str]:
    """Trains from where the loader is; returns a line for each picture that this rank saw."""
    seen: list[str] = []
    steps = 0
    for epoch in range(loader.state_dict()["epoch"], epochs):
        loader.set_epoch(epoch)  # keeps the position within the epoch that was resumed
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()  # gradients are averaged over the ranks
            optimizer.step()
            for file, picture in zip(batch["im_file"], batch["img"], strict=True):
                seen.append(f"{epoch} {hashlib.sha256(picture.numpy()).hexdigest()} {file}\n")
            steps += 1
            if steps == stop_after:
                return seen
    return seen


def main(arguments: list[str] | None = None) -> None:
    """Trains; every process that torchrun starts calls this."""
    parser = argument_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="save, and stop early")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--record", action="store_true", help="write what each rank sees")
    args = parser.parse_args(arguments)
    checkpoint = args.folder / "ddp.pt"

    dist.init_process_group("gloo")
    ranks = yolodata.Ranks.from_env()
    # Rank 0 packs; the others wait for the path. With several machines, the folder is shared.
    shards = [packed(args.data, args.folder) if ranks.rank == 0 else Path()]
    dist.broadcast_object_list(shards)

    torch.manual_seed(0)
    loader = yolodata.Loader(shards[0], batch_size=BATCH // ranks.world_size, seed=0, ranks=ranks)
    model = DistributedDataParallel(TinyModel(len(loader.dataset.names)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    if args.resume:
        saved = torch.load(checkpoint, weights_only=True)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    seen = train(model, optimizer, loader, args.epochs, args.stop_after)

    if args.record:
        record = args.folder / f"rank-{ranks.rank}-of-{ranks.world_size}.txt"
        record.write_text("".join(seen), encoding="utf-8")
    if ranks.rank == 0:  # the loader's state is the same on every rank
        state = {
            "model": model.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "loader": loader.state_dict(),
        }
        torch.save(state, checkpoint)
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
