"""Short scripts that a newcomer reads and runs."""
