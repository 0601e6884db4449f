"""Exports given to others: in one file, on the hub, and taken back into a folder of your own.

Where an export from elsewhere is found and fetched is in `exports.addresses`.
"""
