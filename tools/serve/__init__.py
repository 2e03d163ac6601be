"""A web page and an API for a trained model."""
