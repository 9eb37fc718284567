"""Implicit Neural Deformation for Sparse-View Face Reconstruction (Li et al., Computer Graphics
Forum / PG 2022).

networks.py: Eq. 1-3 and the sizes; losses.py: Eq. 4-11. Test-time fitting (Eq. 12-18) is
jaxrecon.fitting, which takes `functions(config)`; files and meshes are
jaxrecon.pipelines.implicit_deformation.
"""
