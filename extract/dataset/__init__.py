"""Scan datasets, decode their clips and detect copies."""
