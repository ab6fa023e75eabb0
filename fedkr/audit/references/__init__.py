"""Reference models: classifiers and whole pipelines trained on random halves of the candidates."""
