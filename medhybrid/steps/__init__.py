"""One page a command: load, prepare, run, save."""
