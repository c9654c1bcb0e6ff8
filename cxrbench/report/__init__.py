"""What people look at, made of run folders and aggregate summaries. Never torch, never a report text."""
