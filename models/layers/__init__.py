"""Layers that several families share, in `keras.ops` only: they also train on JAX.

What is padded or missing travels beside the tokens as `present`, bool (n, token). What is not present changes nothing:
neither the numbers of what is, nor a gradient; and where nothing is present the outcome is 0, never NaN.
"""
