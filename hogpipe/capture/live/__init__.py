"""Live capture: which links, their handles, and what changes while it runs."""
