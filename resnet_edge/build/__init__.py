"""An engine for a target, from what is asked for to the file with its sidecar."""
