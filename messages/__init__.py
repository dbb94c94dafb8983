"""The shared vocabulary of every node: schema, service table, wire format, pub/sub, clocks, camera model."""
