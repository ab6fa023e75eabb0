"""The coordinator: the Flower ServerApp, the strategies, the release store and the central student."""
