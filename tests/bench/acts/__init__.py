"""What the measured processes of each scenario do (scenarios.py)."""
