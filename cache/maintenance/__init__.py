"""List, verify, repair and prune; private to the cache."""
