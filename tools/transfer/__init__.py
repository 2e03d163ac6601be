"""Is a narrow model's best learning rate also best for a wide model? Runs, stored figures and a page."""
