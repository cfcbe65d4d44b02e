"""NVIDIA's own ``trtexec``, driven from outside: the only TensorRT a JetPack 4 or 5 has for us."""
