"""The `trtexec` that JetPack brings, as a backend: no Python package is needed."""
