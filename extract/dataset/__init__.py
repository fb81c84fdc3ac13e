"""Which files and clips there are, and which of them are copies."""
