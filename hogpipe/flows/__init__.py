"""Flows in columns, shared by the source, the attribution stage and the aggregator.

flow_table.py    the flow table: slots, the fast lane of known flows, the sums of a window
gathered.py      what pending flows moved since it was taken last
flow_slots.py    which flow has which slot, in columns and as flow keys
lane_owners.py   owners and local endpoints as columns: whether an attribution still holds
flow_batch.py    the batches of a source
packet_rows.py   the columns that pass between the stages
flow_words.py    flow keys as words
service_port_columns.py  the port of the service of each flow
key_index.py     slots of fixed-width keys, found for a whole column at once
row_order.py     equal rows brought together
"""
