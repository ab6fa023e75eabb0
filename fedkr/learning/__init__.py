"""The trainer's room: batches, augmentation, the training loop, classifiers and their evaluation."""
