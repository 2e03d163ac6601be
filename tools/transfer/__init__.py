"""Whether the learning rate that is best for a narrow model is best for a wide one: runs, stored figures and a page."""
