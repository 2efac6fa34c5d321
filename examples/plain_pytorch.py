"""Trains in a plain PyTorch loop, which resumes at the exact sample.

python examples/plain_pytorch.py --stop-after 8
python examples/plain_pytorch.py --resume
"""

from __future__ import annotations

from pathlib import Path

import torch
from example_data import argument_parser, packed
from tiny_model import TinyModel, loss_of

import yolodata


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: yolodata.Loader,
    epochs: int,
    stop_after: int | None,
) -> None:
    """Trains from where the loader is to the last epoch, or for so many batches."""
    steps = 0
    for epoch in range(loader.state_dict()["epoch"], epochs):
        loader.set_epoch(epoch)  # keeps the position within the epoch that was resumed
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}")
            steps += 1
            if steps == stop_after:
                return


def main(arguments: list[str] | None = None) -> Path:
    """Trains; returns the checkpoint."""
    parser = argument_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--stop-after", type=int, metavar="BATCHES", help="save, and stop early")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    args = parser.parse_args(arguments)
    checkpoint = args.folder / "plain_pytorch.pt"

    torch.manual_seed(0)
    loader = yolodata.Loader(
        packed(args.data, args.folder),
        batch_size=4,
        seed=0,
        epochs=yolodata.EpochOptions(epochs=args.epochs),
        device=args.device,
    )
    model = TinyModel(len(loader.dataset.names)).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    if args.resume:
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    train(model, optimizer, loader, args.epochs, args.stop_after)

    # The loader's state is plain data: where the stream is, not what was prefetched.
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loader": loader.state_dict(),
    }
    torch.save(state, checkpoint)
    loader.close()
    return Path(checkpoint)


if __name__ == "__main__":
    main()
