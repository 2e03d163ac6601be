"""The contract between a data set's writer and reader."""
