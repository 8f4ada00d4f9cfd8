"""Parts of models; see the modules."""
