"""Audits of finished runs, and of classifiers from elsewhere."""
