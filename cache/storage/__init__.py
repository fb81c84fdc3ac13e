"""Files, HDF5 parts and JSON records; private to the cache."""
