"""The configuration file: its settings, and how they are read."""
