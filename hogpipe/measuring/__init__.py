"""What one process, one control group or one block of Python moved: docs/measure.md.

watch            the public functions: contexts, plain and async, with readings
scope            whose traffic it is: a process with its children, or a control group
process_tree     PURE: the descendants of a process, from forks
socket_meter     measures by the kernel's counters (`ebpf`), with exact borders in time
row_selection    PURE: which rows of the kernel's maps are those of the scope
packet_meter     measures by captured packets (`pcap`), where the kernel may not count
tally            PURE: sums by peer
results          PURE: what a reading returns
report           PURE: a reading as a table
exec_command     `hogpipe exec`: a command, measured like `time` does it
"""
