"""The adapters in real apps of their frameworks, called by the frameworks' own test clients."""
