"""Real servers, real TLS on the loopback, raw clients."""
