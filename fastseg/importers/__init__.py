"""What comes from elsewhere: ready models, public datasets, and masks made by landmarks.

The results are ordinary exports and datasets; nothing in the other rooms imports from here, but the command line.
"""
