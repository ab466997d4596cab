"""From frames on a link or in a file to flow batches."""
