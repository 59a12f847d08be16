"""Text to tokens to batches: sources, tokenizers, the split, packed files, loaders.

`windtunnel.data.config` has the typed config, `windtunnel.data.dataset` has `prepare`,
`windtunnel.data.tokenizers` the tokenizers, and `windtunnel.data.loader` the batches (the only
module here that imports torch). Nothing is imported here, so that each costs only itself.
"""
