"""Pure text functions between tokens and users: detokenizing, stop strings, reasoning, tool calls, grammars."""
