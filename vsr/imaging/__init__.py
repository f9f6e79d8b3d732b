"""Pure functions on image tensors: resizing, colour, metrics.  The ground floor: imports nothing of vsr but errors."""
