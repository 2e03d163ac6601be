"""The study of 2020 re-run at a scale for two CPU cores: cells, their runner, and the page of their results."""
