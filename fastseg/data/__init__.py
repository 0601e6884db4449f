"""From files to arrays and batches: images and masks, their decoding and bit depth, synthetic images, augmentation, loaders.

What a dataset's folders and classes mean is in `tasks`; what can be wrong with a dataset is in `checks`.
"""
