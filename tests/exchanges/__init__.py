"""The table of exchanges: rows of data that every shell and adapter must answer alike."""
