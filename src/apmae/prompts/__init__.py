"""From source files to prompts: spans of the ten tasks, windows of tokens, drawing under a quota."""
