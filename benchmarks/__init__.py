"""Speed and memory against JAX, PyTorch, PyTensor, numexpr and NumPy: `python -m benchmarks`.

One module per question; each lists its rows in `ROWS`, or prints a table of its own in `report`.
"""
