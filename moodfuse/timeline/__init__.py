"""Output of a `moodfuse.model.predictions.Timeline`: an HTML page with the video, and a figure."""
