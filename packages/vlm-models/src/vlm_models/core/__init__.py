"""The contract between processing, models and whoever runs them."""
