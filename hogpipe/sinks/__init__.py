"""Where records go: the plugin contract, the built-in sinks, and their delivery."""
