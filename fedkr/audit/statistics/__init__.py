"""What scores amount to: figures with intervals, bounds and tests."""
