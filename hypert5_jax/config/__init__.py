"""The only folder that imports gin: files and flags in, frozen dataclasses out."""
