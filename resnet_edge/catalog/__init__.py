"""Declarative data by name: targets, recipes, and where shipped files lie."""
