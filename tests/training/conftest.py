from __future__ import annotations

import tempfile

import jax

# Tiny models compile in a quarter of the time; what is compared is the same. Many tests train the same model in the
# same way, so what is compiled is kept for the session.
jax.config.update("jax_disable_most_optimizations", True)
_CACHE = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
