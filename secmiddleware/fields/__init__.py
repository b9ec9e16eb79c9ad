"""What is marked in a body, and what happens to it on its way in and out."""
