"""Models: what a run leaves behind to label new videos. Names resolve lazily."""
