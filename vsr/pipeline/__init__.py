"""One clip from input to output: the only place where media meets inference."""
