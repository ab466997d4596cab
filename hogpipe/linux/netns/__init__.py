"""Network namespaces: which processes are in which, by inode, cookie and id."""
