"""Fine-tuning of networks, and what it will cost."""
