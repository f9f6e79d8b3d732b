"""A batch of LR frames -> SR frames. Knows no files but weights files."""
