"""One file is one way to learn, with the same three names in each: Config, graft, merge."""
