"""Load a checkpoint: files, tokenizer, chat template, adapters."""
