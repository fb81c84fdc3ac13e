"""Import and export of features; private to the cache."""
