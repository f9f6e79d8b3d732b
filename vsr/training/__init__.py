"""Training of the generator: options, data, trainer. Knows no media and no pipeline."""
