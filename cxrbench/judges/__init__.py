"""LLM judges: rubrics, parsers, formulas, and the engine that asks each question once. Above http, below metrics."""
