"""Trains with Hugging Face accelerate, in any number of processes, and resumes at the exact sample.

pip install accelerate
python examples/accelerate_loop.py --stop-after 8
python examples/accelerate_loop.py --resume
torchrun --nproc-per-node 2 examples/accelerate_loop.py

The loader shares out the images itself, by its `Ranks`: it is not given to `prepare`, and not
wrapped in torch's DataLoader, which `prepare` would share out a second time. yolodata does not
depend on accelerate, and its tests do not either: the one of this example is skipped without it.

This file is not called accelerate.py, because Python would import it in accelerate's place.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from example_data import argument_parser, packed
from tiny_model import TinyModel, loss_of

import yolodata

BATCH = 4  # pictures of all processes together


def main(arguments: list[str] | None = None) -> list[str]:
    """Trains; returns the file of each picture that this process saw."""
    parser = argument_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="save, and stop early")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    args = parser.parse_args(arguments)

    accelerator = Accelerator(cpu=True)
    ranks = yolodata.Ranks(accelerator.process_index, accelerator.num_processes)
    with accelerator.main_process_first():  # which packs
        shards = packed(args.data, args.folder)
    torch.manual_seed(0)
    loader = yolodata.Loader(shards, BATCH // ranks.world_size, seed=0, ranks=ranks)
    model = TinyModel(len(loader.dataset.names))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(loader)  # save_state and load_state keep its position
    if args.resume:
        accelerator.load_state(str(args.folder / "accelerate"))

    seen: list[str] = []
    steps = 0
    with loader:
        for epoch in range(loader.state_dict()["epoch"], args.epochs):
            loader.set_epoch(epoch)  # keeps the position within the epoch that was resumed
            for batch in loader:
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                optimizer.zero_grad()
                seen += batch["im_file"]
                steps += 1
                if steps == args.stop_after:
                    break
            if steps == args.stop_after:
                break
        accelerator.save_state(str(args.folder / "accelerate"))
    return seen


if __name__ == "__main__":
    main()
