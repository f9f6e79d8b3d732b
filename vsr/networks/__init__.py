"""Networks and their weights. Knows no media and no files but weights files."""
