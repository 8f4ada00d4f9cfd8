"""Strategies; see the modules."""
