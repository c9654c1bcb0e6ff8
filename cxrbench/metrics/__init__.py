"""One file per metric: cheap reducers over features or plain text."""
