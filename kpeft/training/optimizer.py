"""AdamW (Loshchilov & Hutter, arXiv 1711.05101) made of optax transformations, as a Keras optimiser."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import keras
import optax

from kpeft.training.rank_budget import Allocation, keeping_orthogonal, within_budget
from kpeft.training.schedules import Schedule

# By name and not by rank: the biases of attention's EinsumDense have two axes.
_NOT_DECAYED = frozenset({"bias", "beta", "gamma", "lora_bias", "down_bias", "up_bias"})

Rates = tuple[tuple[float, int], ...]
"""For each variable in its order, the factor of its learning rate and the first update that moves it."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """What an update does; all of it is numbers, so an optimiser can be remade from its config.

    With `g` the gradient summed over the micro-batches of an update, `k` the number of updates before it and
    `eta_k` the scheduled rate::

        g <- g * min(1, clip_norm / ||g||)                     over all variables together
        m <- beta_1 m + (1 - beta_1) g,    v <- beta_2 v + (1 - beta_2) g^2
        w <- w - eta_k (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * w)

    where the decay leaves biases and LayerNorms out. A variable with rates (f, k_0) is moved by f times as much. Before
    update k_0 it stays as it is, its m and v stay zero, and its gradient counts as zero in ||g||; its m_hat and v_hat
    are corrected for the updates since k_0, as if its training had begun there.

    With an allocation, the gradient of its part of the loss is added first, and it may set variables to zero last.

    Attributes:
        schedule: The learning rate of each update.
        weight_decay: Decoupled decay.
        beta_1: Decay of the mean of gradients.
        beta_2: Decay of the mean of squared gradients.
        epsilon: Added to the root of the second moment.
        clip_norm: Largest global norm of a gradient, or `None`.
        gradient_accumulation: Micro-batches of one update.
        micro_batches_per_epoch: Decides how many micro-batches the epoch's last update has.
        rates: Of each variable, or empty where all are (1, 0).
        allocation: Which parts of low-rank changes stay, or `None` where all do.
    """

    schedule: Schedule
    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = None
    gradient_accumulation: int = 1
    micro_batches_per_epoch: int = 1
    rates: Rates = ()
    allocation: Allocation | None = None

    def transformation(self, decayed: Sequence[bool]) -> optax.GradientTransformation:
        """The optax transformation for a list of variables.

        Args:
            decayed: For each variable, whether weight decay applies.

        Returns:
            A transformation that takes the gradient of each micro-batch and moves the variables once per update.
        """
        moves = [_scale_by_adam(self.beta_1, self.beta_2, self.epsilon, [first for _, first in self.rates])]
        if self.weight_decay:
            moves.append(optax.add_decayed_weights(self.weight_decay, mask=list(decayed)))
        moves.append(optax.scale_by_learning_rate(self.schedule))
        gradients = []
        if self.allocation:
            gradients.append(keeping_orthogonal(self.allocation))
        if self.rates:
            assert len(self.rates) == len(decayed)
            gradients.append(_at_rates([(1.0, first) for _, first in self.rates]))
            moves.append(_at_rates(self.rates))
        if self.clip_norm is not None:
            gradients.append(optax.clip_by_global_norm(self.clip_norm))
        move = optax.chain(*moves)
        if self.allocation:
            move = within_budget(move, self.allocation)
        update = optax.chain(*gradients, move)
        if self.gradient_accumulation == 1:
            return update
        # Rows carry the weight 1 / (rows of the update), so the micro-batches' gradients are summed, not averaged.
        steps = optax.MultiSteps(update, self._micro_batches_of_update, use_grad_mean=False)
        return steps.gradient_transformation()

    def _micro_batches_of_update(self, update: Any) -> Any:
        size, total = self.gradient_accumulation, self.micro_batches_per_epoch
        updates = -(-total // size)
        return jnp.where(update % updates == updates - 1, total - size * (updates - 1), size)


class _AtRatesState(NamedTuple):
    count: Any  # updates so far


def _at_rates(rates: Sequence[tuple[float, int]]) -> optax.GradientTransformation:
    """Multiplies what there is for each variable by its factor; before its first update that is zero."""

    def init(parameters: Any) -> _AtRatesState:
        del parameters
        return _AtRatesState(jnp.zeros([], jnp.int32))

    def update(values: Any, state: _AtRatesState, parameters: Any = None) -> tuple[Any, _AtRatesState]:
        del parameters
        scaled = [
            jnp.where(state.count >= first, factor * value, jnp.zeros_like(value))
            for (factor, first), value in zip(rates, values, strict=True)
        ]
        return scaled, _AtRatesState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _scale_by_adam(
    beta_1: float, beta_2: float, epsilon: float, first_updates: Sequence[int] = ()
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with an exact bias correction, for each variable from its first update on.

    optax takes 1 - beta^k from beta in float32. For 0.999 that is 1.3e-5 off, at every k and always to the same side,
    which makes each step 6e-6 too short; -expm1(k log beta) keeps float32's full precision.
    """
    adam = optax.scale_by_adam(beta_1, beta_2, epsilon)

    def update(gradients: Any, state: Any, parameters: Any = None) -> Any:
        del parameters
        mean = optax.tree.update_moment(gradients, state.mu, beta_1, 1)
        square = optax.tree.update_moment_per_elem_norm(gradients, state.nu, beta_2, 2)
        count = optax.safe_increment(state.count)
        corrections = {
            first: [-jnp.expm1(jnp.maximum(count - first, 1) * math.log(beta)) for beta in (beta_1, beta_2)]
            for first in (0, *first_updates)
        }

        def step(m: Any, v: Any, first: int) -> Any:
            mean_correction, square_correction = corrections[first]
            m_hat = m / mean_correction.astype(m.dtype)
            v_hat = v / square_correction.astype(v.dtype)
            return m_hat / (jnp.sqrt(v_hat) + epsilon)

        firsts = first_updates or [0] * len(mean)
        updates = [step(*each) for each in zip(mean, square, firsts, strict=True)]
        return updates, optax.ScaleByAdamState(count=count, mu=mean, nu=square)

    return optax.GradientTransformation(adam.init, update)


def is_decayed(variable: Any) -> bool:
    """Whether weight decay applies to a variable: to all but biases and the scales and shifts of normalisations.

    It does apply to other vectors, such as (IA)³'s scales and DoRA's magnitudes, as in Hugging Face's trainer.
    """
    return variable.name not in _NOT_DECAYED


@final
@keras.saving.register_keras_serializable("kpeft")
class OptaxOptimizer(keras.optimizers.Optimizer):
    """A Keras optimiser whose update is an optax transformation.

    Each leaf of optax's state is a Keras variable, in the order of the state's tree, so that fit can donate it, a
    distribution can place it and saving can find it. JAX only.

    Args:
        recipe: What an update does.
        name: Name of the optimiser.
    """

    def __init__(self, recipe: AdamW, name: str = "adamw") -> None:
        if keras.backend.backend() != "jax":
            raise ValueError(
                f"OptaxOptimizer runs on JAX only. Received: backend={keras.backend.backend()!r}; "
                "set KERAS_BACKEND=jax before Keras is imported"
            )
        super().__init__(learning_rate=self._current_rate, name=name)
        self.recipe = recipe
        self._leaves: list[Any] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the state's variables.

        Args:
            variables: The model's trainable variables, in the model's order.
        """
        if self.built:
            return
        super().build(list(variables))
        self._transformation = self.recipe.transformation([is_decayed(variable) for variable in variables])
        parameters = [jax.ShapeDtypeStruct(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]
        state = jax.eval_shape(self._transformation.init, parameters)
        # A moment lies on the devices as its variable does; counters are replicated.
        sources = optax.tree_map_params(
            self._transformation,
            lambda _, variable: variable,
            state,
            list(variables),
            transform_non_params=lambda _: None,
        )
        leaves, self._treedef = jax.tree.flatten(state)
        origins = jax.tree.leaves(sources, is_leaf=lambda leaf: leaf is None or isinstance(leaf, keras.Variable))
        # Every leaf of this recipe's state starts at zero.
        self._leaves = [self._state_variable(*pair) for pair in zip(leaves, origins, strict=True)]

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Takes one micro-batch's gradients into the state and, where an update is complete, moves the variables.

        Args:
            grads: One gradient for each variable, shaped as it.
            trainable_variables: The variables, where the optimiser is not built yet; in the order it was built with.
        """
        if not self.built:
            self.build(list(trainable_variables or ()))
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if [id(variable) for variable in variables] != [id(variable) for variable in self._trainable_variables]:
            raise ValueError("OptaxOptimizer moves all the variables that it was built with, in that order.")
        state = jax.tree.unflatten(self._treedef, [leaf.value for leaf in self._leaves])
        values = [variable.value for variable in variables]
        updates, state = self._transformation.update(list(grads), state, values)
        for variable, value in zip(variables, optax.apply_updates(values, updates), strict=True):
            variable.assign(value if variable.constraint is None else variable.constraint(value))
        for leaf, value in zip(self._leaves, jax.tree.leaves(state), strict=True):
            leaf.assign(value)
        self.iterations.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "recipe": dataclasses.asdict(self.recipe)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> OptaxOptimizer:
        recipe = dict(config["recipe"])
        recipe["schedule"] = Schedule(**recipe["schedule"])
        recipe["rates"] = tuple((factor, first) for factor, first in recipe["rates"])
        if recipe["allocation"] is not None:
            triplets = tuple((a, e, b) for a, e, b in recipe["allocation"]["triplets"])
            recipe["allocation"] = Allocation(**{**recipe["allocation"], "triplets": triplets})
        return cls(AdamW(**recipe), name=config["name"])

    def _state_variable(self, leaf: Any, origin: Any) -> Any:
        if origin is not None:
            return self.add_variable_from_reference(origin, name="state")
        return self.add_variable(leaf.shape, dtype=leaf.dtype.name, name="counter")

    def _current_rate(self) -> Any:
        recipe = self.recipe
        epochs, rest = divmod(self.iterations.value, recipe.micro_batches_per_epoch)
        updates = -(-recipe.micro_batches_per_epoch // recipe.gradient_accumulation)
        return recipe.schedule(epochs * updates + rest // recipe.gradient_accumulation)
