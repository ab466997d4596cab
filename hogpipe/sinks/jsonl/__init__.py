"""The `jsonl` sink: files of whole lines, which may be rotated and compressed."""
