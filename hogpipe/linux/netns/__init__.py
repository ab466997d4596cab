"""Network namespaces, and the three numbers that the kernel knows each of them by.

- The inode of /proc/PID/ns/net, which the rest of hogpipe uses (`FlowKey.namespace`). The kernel
  reuses it once the namespace is gone. `namespace_processes`: which processes are in which inode.
  `namespace_addresses`: which of them have an address.
- The cookie (SO_NETNS_COOKIE), which BPF programs report. The kernel never reuses it. `cookies`:
  reading it, inside another namespace too. `network_namespaces`: inode to cookie and back.
- The nsid (ip-netns(8)), by which a link names the namespace that its peer is in. `nsid`: asking
  for it over rtnetlink.

`namespace_links` keeps netlink sockets open inside other namespaces, by inode.
"""
