"""Key-encryption key, key ring and tokens: what turns a value into ciphertext and back."""
