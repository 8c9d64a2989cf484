"""The product of an activation and a linear path: GLU and its variants."""
