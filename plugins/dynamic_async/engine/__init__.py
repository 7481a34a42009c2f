"""Peers that iterate a map between processes and machines: frames, transports, membership, hosting, faults."""
