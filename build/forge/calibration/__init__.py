"""The only step that hardware can change, and its record."""
