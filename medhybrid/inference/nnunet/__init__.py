"""Models of nnU-Net: their network, preprocessing and export, computed with the results of nnU-Net's own inference.

All axes are those of the scan (X, Y, Z). nnU-Net works on (Z, Y, X), in an order that each model chooses: weights, patch,
strides and mirror axes are permuted once, on import.
"""
