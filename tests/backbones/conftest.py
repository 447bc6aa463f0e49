from __future__ import annotations

import jax

# Many tiny models, each compiled once: XLA's optimisations cost them more than they give.
jax.config.update("jax_disable_most_optimizations", True)
