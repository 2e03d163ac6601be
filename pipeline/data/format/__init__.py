"""The contract of the writer and the reader of a data set."""
