"""Command lines that inspect, prove and measure; users may live without them."""
