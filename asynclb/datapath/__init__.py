"""Datapaths execute the forwarding tables. They know no probes and no configuration files."""
