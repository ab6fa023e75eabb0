"""The report: results.json, tables for the terminal, figures, self-contained pages, TensorBoard events."""
