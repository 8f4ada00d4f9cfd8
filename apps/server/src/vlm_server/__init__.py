"""HTTP serving of vision-language models: OpenAI and Anthropic compatible."""

__version__ = "0.1.0"
