"""From owned flows to record bodies: windows, dimensions, selectors, sums. All of it is pure."""
