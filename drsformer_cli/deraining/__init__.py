"""Deraining: which image goes where, and how it is read, restored and written."""
