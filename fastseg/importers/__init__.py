"""Models and labels from elsewhere: ready networks, other datasets, masks made by landmarks.

The results are ordinary exports and datasets. Only the command line imports from here.
"""
