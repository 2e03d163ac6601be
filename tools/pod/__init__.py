"""From a grant of TPUs to the first step: creates a slice, sets its hosts up, runs and watches the training there."""
