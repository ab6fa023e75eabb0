"""TorchScript models, which are code: looked through, then run by a child process that the system confines."""
