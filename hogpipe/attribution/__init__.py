"""From flows to the processes that own them."""
