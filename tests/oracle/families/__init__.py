"""One module per family: tiny configurations, inputs and what published checkpoints spell differently."""
