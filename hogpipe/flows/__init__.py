"""Flows in columns, shared by the source, the attribution stage and the aggregator.

flow_table.py    the flow table: slots, the fast lane of known flows, the sums of a window
traced_table.py  the same with a report of which packets are counted for which owner
flow_slots.py    which flow has which slot, in columns and as flow keys, and room for more
lanes.py         which packets pass on the fast lane, by owner and local endpoint
recorded_flows.py  flows of a host that does not change, and their attributions
slot_traffic.py  what flows moved, counted for their owners or gathered while they are pending
flow_batch.py    the batches of a source
packet_rows.py   the columns that pass between the stages
health_columns.py  the health of TCP connections, beside them
endpoint_match.py  flows by their endpoints alone
flow_words.py    flow keys as words
service_port_columns.py  the port of the service of each flow
network_columns.py  the named network of each address
key_index.py     slots of fixed-width keys, found for a whole column at once
row_order.py     equal rows brought together
"""
