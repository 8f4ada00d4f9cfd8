"""Training recipes that anyone can rerun."""
