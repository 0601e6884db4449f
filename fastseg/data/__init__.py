"""From files to arrays and batches: reading, decoding of masks, bit depth, pairing, augmentation.

What a dataset's folders and classes mean is in `tasks`; what can be wrong with a dataset is in
`checks`.
"""
