"""An HTML page of one run or several."""
