"""Owners of flows from the kernel's socket tables and the fds of processes."""
