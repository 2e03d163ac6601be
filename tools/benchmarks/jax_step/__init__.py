"""The JAX step that ours is compared with: gpt2.py is the step, __main__.py measures it."""
