"""Files, HDF5 parts and JSON records of a cache: private to `moodfuse.cache`."""
