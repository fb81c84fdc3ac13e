"""Reading clips: opening media files, decoding their pictures and sound, and shaping both for the networks."""
