"""jaxrecon: people and faces in 3D from a few photographs, with implicit functions, in JAX.

Importing the package costs nothing: modules load jax when they are imported themselves.
"""

__version__ = "0.1.0"
