"""The attribution stage: pending flows, batches of lookups, their budget and their cache."""
