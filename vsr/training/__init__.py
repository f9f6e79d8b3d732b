"""Training of the generator: options, data, losses, checkpoints and the trainer. Imports no pipeline."""
