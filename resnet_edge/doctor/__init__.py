"""What this machine can do for each backend, what is missing, and the command that fixes it."""
