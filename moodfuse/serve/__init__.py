"""The web service: a model behind `POST /predict`, and a page to drop a video on. Nothing is imported until it runs."""
