"""DNS queries and answers that pass: which name was asked for, by which flow, with which addresses.

    dns_capture     a socket for port 53 alone, which is read within a budget of CPU time
    dns_exchanges   PURE: answers that belong to a query, and no others
      dns_messages    PURE: the messages in packets, of UDP and of TCP
      dns_answers     PURE: the addresses that an answer has for the name in question (dnspython)

This is apart from the capture that counts: it has a socket and a thread of its own, so that neither
its cost nor its losses concern what is counted. What it finds goes to
`hogpipe.enrichment.address_names`.
"""
