"""Runs nvcc's PTX without a GPU: source (what the text says), machine (threads), memory (accesses), arithmetic."""
