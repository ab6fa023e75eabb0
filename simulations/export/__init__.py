"""What a finished run hands on: models with their cards, releases, predictions."""
