"""The result of an optimisation as a differentiable function of what it was given.

At an optimum x*(c) of L(x, c) the gradient g(x*, c) = dL/dx is zero for every c. Differentiated
(implicit function theorem):

    dx*/dc = -H^-1 dg/dc,    H = d2L/dx2

`implicit` gives a found optimum these derivatives by one Newton step whose matrix is constant,
x = [x*] - [H]^-1 (g([x*], c) - [g]), [.] = constant: its value is x*, its first derivatives are the
theorem's, in forward and in reverse mode, under vmap, whatever algorithm found x*.
`implicit_least_squares` does so for L = |r(x, c)|^2 / 2 from first derivatives of r alone.

How exact: as x* is an optimum. Where g(x*, c) is not zero the derivatives belong to x* plus the
Newton step that is still missing, to first order in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def implicit(objective: Callable, optimum: Any, parameters: Any) -> Any:
    """`optimum` with the derivatives by `parameters` that the implicit function theorem gives.

    Args:
        objective: (optimum, parameters) -> scalar, right in its second derivatives, u unknowns; no
            constants of its own may depend on what is differentiated.
        optimum: pytree of floats at which the objective is least; taken as constant.
        parameters: pytree; derivatives flow to it.

    Returns:
        The tree of `optimum`, value unchanged. Costs u forward-over-reverse passes and a u x u
        solve; NaN where the Hessian is singular.
    """
    flat, unravel = ravel_pytree(jax.lax.stop_gradient(optimum))
    fixed = jax.lax.stop_gradient(parameters)

    def gradient(x, p):
        return jax.grad(lambda y: objective(unravel(y), p))(x)

    hessian = jax.jacfwd(gradient)(flat, fixed)
    return unravel(_newton(flat, hessian, gradient(flat, parameters)))


def implicit_least_squares(residuals: Callable, optimum: Any, parameters: Any) -> Any:
    """`optimum` of |residuals|^2 with its derivatives, by Gauss-Newton.

    Only first derivatives of the residuals are taken, so that they may come from
    `geometry.intersection`. Left out are the residuals times their second derivatives: exact where
    the residuals vanish, close where they are small or nearly linear.

    Args:
        residuals: (optimum, parameters) -> array; r numbers of u unknowns.
        optimum: pytree of floats; taken as constant.
        parameters: pytree; derivatives flow to it.

    Returns:
        The tree of `optimum`, value unchanged. Costs u forward passes and a u x u solve; NaN where
        J^T J is singular.
    """
    flat, unravel = ravel_pytree(jax.lax.stop_gradient(optimum))
    fixed = jax.lax.stop_gradient(parameters)

    def values(x, p):
        return jnp.ravel(residuals(unravel(x), p))

    jacobian = jax.lax.stop_gradient(jax.jacfwd(values)(flat, fixed))
    normal = jnp.matmul(jacobian.T, jacobian, precision="highest")
    gradient = jnp.matmul(jacobian.T, values(flat, parameters), precision="highest")
    return unravel(_newton(flat, normal, gradient))


def _newton(x, matrix, gradient):
    """x with the derivatives of a Newton step, but not its length."""
    change = gradient - jax.lax.stop_gradient(gradient)
    return x - jnp.linalg.solve(jax.lax.stop_gradient(matrix), change)
