"""Identity: from a presented certificate to a caller or a reason, and what that caller may do."""
