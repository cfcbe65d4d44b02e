"""Device memory, streams, events and graphs: one interface over pycuda and cuda-python."""
