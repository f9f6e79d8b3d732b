"""What a file may ask of the machine. Imports nothing, so that options can name it."""

MAX_PIXELS = 100_000_000
"""Of a frame, unless the user says otherwise: three times those of 8K."""
