"""Class weights and optimizers of fine-tuning; whole runs are in test_pipeline.py and test_leaks.py."""

import torch

from moodfuse.cache.recipe import Tuning
from moodfuse.extract.training.fine_tune import compute_class_weights, make_optimizer


def test_class_weights_balance_the_classes() -> None:
    """N / (C * count), and 0 for a class without clips."""
    assert compute_class_weights([0, 0, 0, 1], 3).tolist() == torch.tensor([4 / 9, 4 / 3, 0.0]).tolist()


def test_the_recipe_chooses_the_optimizer() -> None:
    """With its learning rate and weight decay."""
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        optimizer = make_optimizer(Tuning(name, learning_rate=0.1, epochs=1, weight_decay=0.5), parameters)
        assert type(optimizer) is kind
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.5)
