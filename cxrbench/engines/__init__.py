"""How output is produced. An adapter says what a model is, an engine runs it."""
