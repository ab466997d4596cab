"""PURE: frames to sums of packets by wire key, vectorised and plain."""
