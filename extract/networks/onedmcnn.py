"""`onedmcnn`: a small 1-D convolutional network on the raw waveform."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moodfuse.extract.networks.base import Network, check_audio_batch, global_mean, min_samples
from moodfuse.extract.networks.registry import NETWORKS

CHANNELS = 32
BLOCKS = 4


class OneDMCNN(Network):
    """Four blocks of Conv1d (32 filters, width 3, stride 2), ELU, Dropout 0.1 and MaxPool 2.

    The outputs of the four convolutions (behind their ELU) and of the four poolings are averaged over time: 32 x 8
    numbers, in the order conv1, pool1, ..., conv4, pool4, flattened filter by filter to 256. As everything is averaged
    over time, any waveform of 2 s or more will do.

    Parameters
    ----------
    num_classes : int
        Width of the classifier.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(NETWORKS["onedmcnn"], num_classes, dropout=0.1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(1 if block == 0 else CHANNELS, CHANNELS, kernel_size=3, stride=2, padding=1)
            for block in range(BLOCKS)
        )
        self.elu = nn.ELU()
        self.dropout = nn.Dropout(0.1)
        self.pool = nn.MaxPool1d(2)
        self.initialise()

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, 256]``, float32, of waveforms ``[N, samples]`` in [-1, 1] at 16 kHz, of 2 s or more.

        Raises
        ------
        InputError
            If the batch has another shape, or the waveforms are too short.
        """
        check_audio_batch(x, network=self.spec.name, min_samples=min_samples(self.spec))
        features = []
        signal = x.unsqueeze(1)
        for convolution in self.convolutions:
            signal = self.elu(convolution(signal))
            features.append(global_mean(signal))
            signal = self.pool(self.dropout(signal))
            features.append(global_mean(signal))
        return torch.stack(features, dim=2).flatten(1)
