"""What people look at: result pages, pictures, charts, evidence, suspected label errors.

The predictions and figures shown come from `inference` and `evaluation`.
"""
