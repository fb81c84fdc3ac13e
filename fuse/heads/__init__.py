"""Fusion heads: scikit-learn classifiers by name, and their exported form."""
