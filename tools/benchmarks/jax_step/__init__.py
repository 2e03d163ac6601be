"""The JAX step that we compare ours with: gpt2.py is the step, __main__.py measures it."""
