"""Certificates: what is trusted, how a chain is judged, and what serves or issues them."""
