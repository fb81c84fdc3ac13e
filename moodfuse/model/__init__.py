"""Exported models: their folder, and predictions with them."""
