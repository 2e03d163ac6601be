"""From text to records on disk, and from records to batches."""
