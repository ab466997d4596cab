"""The kernel's interfaces: the only package that opens /proc, netlink sockets or libbpf."""
