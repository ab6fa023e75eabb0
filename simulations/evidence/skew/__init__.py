"""What helps where sites are skewed, measured on cuts of the development sets, and how opponents fare there."""
