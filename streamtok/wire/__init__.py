"""The message on the wire: packing, publisher, subscriber, control, security."""
