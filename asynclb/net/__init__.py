"""The words of the wire: addresses, flow keys, the flow hash, drop reasons, PROXY protocol. Pure."""
