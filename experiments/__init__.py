"""Questions answered with the runner and the library: one folder or module for each."""
