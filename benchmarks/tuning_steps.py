"""Ten full-tuning steps on four fixed clips, for each network: the loss in eval mode before and after."""

import sys

import torch
from torch.nn import functional

from moodfuse.extract.networks import create_network, network_spec

SHAPES = {"onedmcnn": (128_000,), "twodmcnn": (128_000,), "c3d": (3, 16, 112, 112), "i3d": (3, 16, 112, 112)}
LEARNING_RATES = {"onedmcnn": 1e-3, "twodmcnn": 1e-3, "c3d": 3e-5, "i3d": 1e-4}
STEPS, CLIPS = 10, 4


def fixed_clips(name: str) -> torch.Tensor:
    """Four clips of smooth noise, each of another scale and level."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(CLIPS, *SHAPES[name], generator=generator)
    level = torch.linspace(0.2, 1.0, CLIPS).reshape(-1, *[1] * len(SHAPES[name]))
    drift = torch.linspace(0, 6.0, SHAPES[name][-1])
    wave = torch.stack([torch.sin((number + 1) * 40 * drift) for number in range(CLIPS)])
    wave = wave.reshape(CLIPS, *[1] * (len(SHAPES[name]) - 1), -1)
    return (level * noise * 0.3 + wave * 0.5) * (100.0 if name == "c3d" else 1.0)


def main() -> int:
    """Print a line a network; 1 if any loss did not fall."""
    failed = 0
    for name, learning_rate in LEARNING_RATES.items():
        torch.manual_seed(0)
        network = create_network(name, num_classes=CLIPS)
        x, labels = fixed_clips(name), torch.arange(CLIPS)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)

        def loss(
            network: torch.nn.Module = network, x: torch.Tensor = x, labels: torch.Tensor = labels
        ) -> torch.Tensor:
            return functional.cross_entropy(network(x)[1], labels)

        with torch.inference_mode():
            before = float(loss())
        network.train()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            after = float(loss())
        failed += not after < before
        print(
            f"{name} ({network_spec(name).modality}): Adam {learning_rate:g}, loss {before:.4f} -> "
            f"{after:.4f}",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
