"""Verification: does the candidate answer as the PyTorch reference does?"""
