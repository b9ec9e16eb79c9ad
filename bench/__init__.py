"""What secmiddleware costs, measured against a peer in the same run: `make bench`."""
