"""Read clips: open media files, decode video and audio, and make the inputs of networks from them."""
