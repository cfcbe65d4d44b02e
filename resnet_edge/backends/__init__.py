"""What runs and what builds: one module per runtime, one small contract for all."""
