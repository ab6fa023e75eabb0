"""The contestants of the comparison, one module each; what they have in common is in :mod:`server.contestant`."""
