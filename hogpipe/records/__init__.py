"""The record: its schema, what makes it identifiable, and the stats of a run."""
