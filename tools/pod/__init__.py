"""From a grant of TPUs to the first step: creates a slice, sets up its hosts, runs and watches the training there."""
