"""Pretrained weights: published files, layouts, fetching and loading."""
