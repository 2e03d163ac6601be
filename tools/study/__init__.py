"""The study of 2020 re-run at a scale that two CPU cores bear: cells, their runner, and the page made of them."""
