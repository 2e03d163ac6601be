"""The optimizer step, the training loop and the session around it."""
