"""What a person sees of a `moodfuse.model.predictions.Timeline`: a page beside the video, a figure, and a poster."""
