"""What a SavedModel needs to take and give text: tokenizer and generation as TensorFlow graphs."""
