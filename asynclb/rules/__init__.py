"""One file per rule kind: a rule becomes rows of the forwarding tables. Pure."""
