"""What is told to the outside about exchanges: the `Observer` seam and the audit log."""
