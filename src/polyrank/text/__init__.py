"""From text to token ids: prompts, tokenizing, pairing and truncation."""
